// Vectors of the size that the instruction set has, by the vector extension of GCC and Clang. The same source becomes
// SSE2, NEON, AVX2 or AVX-512. Everything is in an unnamed namespace, so that the linker never merges the copies of two
// instruction sets.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include "kernels.h"

namespace {

using acon::BFloat16;
using acon::Float16;

#if defined(__AVX512F__)
constexpr int kBytes = 64;
#elif defined(__AVX2__)
constexpr int kBytes = 32;
#else
constexpr int kBytes = 16;
#endif

typedef float F32 __attribute__((vector_size(kBytes)));
typedef int32_t I32 __attribute__((vector_size(kBytes)));
typedef uint32_t U32 __attribute__((vector_size(kBytes)));
typedef double F64 __attribute__((vector_size(kBytes)));
typedef int64_t I64 __attribute__((vector_size(kBytes)));

// The vector of an arithmetic type, and the vector of integers of the same size.
template <typename A>
struct Vector;
template <>
struct Vector<float> {
  using type = F32;
  using ints = I32;
  static constexpr int lanes = kBytes / 4;
};
template <>
struct Vector<double> {
  using type = F64;
  using ints = I64;
  static constexpr int lanes = kBytes / 8;
};

template <typename V>
V broadcast(decltype(V{}[0] + 0) value) {
  return V{} + value;
}

// Both return `x` unless it is beyond the limit, so NaN in `x` stays.
template <typename V>
V at_most(V x, V limit) {
  return limit < x ? limit : x;
}
template <typename V>
V at_least(V x, V limit) {
  return limit > x ? limit : x;
}

#if defined(__AVX2__) && !defined(__AVX512F__)
// One instruction with the same rule for NaN. The compiler makes two of the code above.
template <>
F32 at_most(F32 x, F32 limit) {
  return (F32)_mm256_min_ps((__m256)limit, (__m256)x);
}
template <>
F32 at_least(F32 x, F32 limit) {
  return (F32)_mm256_max_ps((__m256)limit, (__m256)x);
}
#endif

// Adds the second half of the lanes to the first, again and again: few additions wait for one another.
template <typename V>
auto sum_of_lanes(V v) {
  constexpr int lanes = sizeof(V) / sizeof(v[0]);
  decltype(v[0] + 0) values[lanes];
  std::memcpy(values, &v, sizeof(V));
  for (int half = lanes / 2; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) {
      values[i] += values[i + half];
    }
  }
  return values[0];
}
#if defined(__AVX512F__)
template <>
inline auto sum_of_lanes(F32 v) {
  return _mm512_reduce_add_ps((__m512)v);
}
#endif

// 2^t. It is infinity above the largest number, and 0 below the smallest (AVX-512) or the smallest normal one (others).
// NaN stays.
//
// t = n + f with an integer n. A polynomial gives 2^f, and the bits of n give 2^n. The last bit of `kShift` is worth 1,
// so adding it rounds t to n; the low bits of the sum are then n plus the bias of the exponent.
#if defined(__AVX512F__)
F32 exp2(F32 t) {
  // f = t - floor(t), and the product with 2^floor(t), are one instruction each.
  const F32 f = (F32)_mm512_reduce_ps((__m512)t, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
  // The minimax polynomial of the relative error, 8.2e-8, over 0..1. Computed in pairs, which wait less than Horner's
  // form.
  const F32 low = f * 6.931513118e-1f + 1.0f;
  const F32 middle = f * 5.579991310e-2f + 2.401644502e-1f;
  const F32 high = f * 1.867130070e-3f + 9.017030322e-3f;
  const F32 square = f * f;
  const F32 p = (high * square + middle) * square + low;
  return (F32)_mm512_scalef_ps((__m512)p, (__m512)t);
}
#else
F32 exp2(F32 t) {
  constexpr float kShift = 12582912.0f + 127.0f;
  t = at_least(at_most(t, broadcast<F32>(128.0f)), broadcast<F32>(-127.0f));
  const F32 shifted = t + kShift;
  const F32 f = t - (shifted - kShift);
  // The minimax polynomial of the relative error, 1.9e-9, over -1/2..1/2.
  F32 p = f * 1.534581104e-4f + 1.33999312e-3f;
  p = p * f + 9.61848896e-3f;
  p = p * f + 5.550328777e-2f;
  p = p * f + 2.402264689e-1f;
  p = p * f + 6.931472057e-1f;
  p = p * f + 1.0f;
  return p * (F32)((I32)shifted << 23);
}
#endif

F64 exp2(F64 t) {
  constexpr double kShift = 6755399441055744.0 + 1023.0;
  t = at_least(at_most(t, broadcast<F64>(1024.0)), broadcast<F64>(-1023.0));
  const F64 shifted = t + kShift;
  const F64 f = t - (shifted - kShift);
  // Taylor's terms ln(2)^k / k!. The first one left out is below 5e-18.
  constexpr double kTerms[] = {
      1.3691488853904128e-12, 2.5678435993488202e-11, 4.4455382718708113e-10, 7.0549116208011234e-09,
      1.0178086009239699e-07, 1.3215486790144310e-06, 1.5252733804059841e-05, 1.5403530393381608e-04,
      1.3333558146428443e-03, 9.6181291076284769e-03, 5.5504108664821580e-02, 2.4022650695910072e-01,
      6.9314718055994529e-01, 1.0};
  F64 p = broadcast<F64>(kTerms[0]);
  for (int k = 1; k < 14; ++k) {
    p = p * f + kTerms[k];
  }
  return p * (F64)((I64)shifted << 52);
}

template <typename A>
constexpr A kLog2E = 1.442695040888963407359924681;

// Stores without the cache, so that the memory is not read first. `to` is a multiple of kBytes.
template <typename V>
void stream(void* to, V v) {
#if defined(__AVX512F__)
  _mm512_stream_si512(static_cast<__m512i*>(to), (__m512i)v);
#elif defined(__AVX2__)
  _mm256_stream_si256(static_cast<__m256i*>(to), (__m256i)v);
#else
  std::memcpy(to, &v, sizeof(V));
#endif
}
// Other threads see these stores only after this.
inline void finish_streams() {
#if defined(__AVX2__)
  _mm_sfence();
#endif
}

// Loading and storing. A step is `group` vectors. `Io<S>` loads elements S of memory into vectors of `Compute<S>`, and
// stores them back. The functions with `n` load or store only the first `n` elements of a step; the others are 0 in the
// vectors. The vectors of a step may have its elements in another order. `WideIo<S>` brings parameters and sums, which
// are `Compute<S>` in memory, into the same order.
template <typename S, int vectors>
struct IoBase {
  using A = typename acon::Compute<S>::type;
  using V = typename Vector<A>::type;
  static constexpr int group = vectors;
  static constexpr int step = group * Vector<A>::lanes;
};

template <typename S>
struct Io : IoBase<S, 1> { // float and double
  using typename IoBase<S, 1>::V;
  using IoBase<S, 1>::step;
  static void load(const S* from, V (&v)[1]) {
    std::memcpy(v, from, sizeof(V));
  }
  static void store(S* to, const V (&v)[1]) {
    std::memcpy(to, v, sizeof(V));
  }
  static void store_past_cache(S* to, const V (&v)[1]) {
    stream(to, v[0]);
  }
  static void load(const S* from, V (&v)[1], int n) {
    v[0] = V{};
    std::memcpy(v, from, n * sizeof(S));
  }
  static void store(S* to, const V (&v)[1], int n) {
    std::memcpy(to, v, n * sizeof(S));
  }
};

#if defined(__AVX512F__)
template <>
void Io<float>::load(const float* from, F32 (&v)[1], int n) {
  v[0] = (F32)_mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1), from);
}
template <>
void Io<float>::store(float* to, const F32 (&v)[1], int n) {
  _mm512_mask_storeu_ps(to, (__mmask16)((1u << n) - 1), (__m512)v[0]);
}
#elif defined(__AVX2__)
__m256i first_lanes(int n) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
template <>
void Io<float>::load(const float* from, F32 (&v)[1], int n) {
  v[0] = (F32)_mm256_maskload_ps(from, first_lanes(n));
}
template <>
void Io<float>::store(float* to, const F32 (&v)[1], int n) {
  _mm256_maskstore_ps(to, first_lanes(n), (__m256)v[0]);
}
#endif

// Loads and stores a part of a step through a buffer that holds a whole one.
template <typename S, int vectors, typename Derived>
struct BufferedIo : IoBase<S, vectors> {
  using typename IoBase<S, vectors>::V;
  using IoBase<S, vectors>::step;
  static void load(const S* from, V (&v)[vectors], int n) {
    S buffer[step] = {};
    std::memcpy(buffer, from, n * sizeof(S));
    Derived::load(buffer, v);
  }
  static void store(S* to, const V (&v)[vectors], int n) {
    S buffer[step];
    Derived::store(buffer, v);
    std::memcpy(to, buffer, n * sizeof(S));
  }
};

// Two vectors at a time: the even and the odd elements. These are the low and the high halves of 32-bit words, so
// loading takes one operation each.
template <>
struct Io<BFloat16> : BufferedIo<BFloat16, 2, Io<BFloat16>> {
  using BufferedIo::load;
  using BufferedIo::store;
  static void load(const BFloat16* from, F32 (&v)[2]) {
    U32 words;
    std::memcpy(&words, from, sizeof(words));
    v[0] = (F32)(words << 16);
    v[1] = (F32)(words & 0xffff0000u);
  }
  static void store(BFloat16* to, const F32 (&v)[2]) {
    const U32 words = packed(v);
    std::memcpy(to, &words, sizeof(words));
  }
  static void store_past_cache(BFloat16* to, const F32 (&v)[2]) {
    stream(to, packed(v));
  }

 private:
  static U32 packed(const F32 (&v)[2]) {
    return rounded(v[0]) >> 16 | (rounded(v[1]) & 0xffff0000u);
  }
  static U32 rounded(F32 v) {
    const U32 bits = (U32)v;
    const U32 to_nearest_even = bits + 0x7fff + ((bits >> 16) & 1);
    // Rounding could turn a NaN into infinity.
    return v == v ? to_nearest_even : (bits | 0x400000);
  }
};

template <>
struct Io<Float16> : BufferedIo<Float16, 1, Io<Float16>> {
  using BufferedIo::load;
  using BufferedIo::store;
  static void store_past_cache(Float16* to, const F32 (&v)[1]) {
    store(to, v);
  }
#if defined(__AVX512F__)
  static void load(const Float16* from, F32 (&v)[1]) {
    v[0] = (F32)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)from));
  }
  static void store(Float16* to, const F32 (&v)[1]) {
    _mm256_storeu_si256((__m256i*)to, _mm512_cvtps_ph((__m512)v[0], _MM_FROUND_TO_NEAREST_INT));
  }
#elif defined(__AVX2__)
  static void load(const Float16* from, F32 (&v)[1]) {
    v[0] = (F32)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)from));
  }
  static void store(Float16* to, const F32 (&v)[1]) {
    _mm_storeu_si128((__m128i*)to, _mm256_cvtps_ph((__m256)v[0], _MM_FROUND_TO_NEAREST_INT));
  }
#else
  typedef _Float16 Halves __attribute__((vector_size(kBytes / 2)));
  static void load(const Float16* from, F32 (&v)[1]) {
    Halves halves;
    std::memcpy(&halves, from, sizeof(halves));
    v[0] = __builtin_convertvector(halves, F32);
  }
  static void store(Float16* to, const F32 (&v)[1]) {
    const Halves halves = __builtin_convertvector(v[0], Halves);
    std::memcpy(to, &halves, sizeof(halves));
  }
#endif
};

// Loads and stores `Compute<S>` in the order of the vectors of `Io<S>`.
template <typename S>
struct WideIo {
  using A = typename Io<S>::A;
  using V = typename Io<S>::V;
  static void load(const A* from, V (&v)[1]) {
    Io<A>::load(from, v);
  }
  static void store(A* to, const V (&v)[1]) {
    Io<A>::store(to, v);
  }
  static void load(const A* from, V (&v)[1], int n) {
    Io<A>::load(from, v, n);
  }
  static void store(A* to, const V (&v)[1], int n) {
    Io<A>::store(to, v, n);
  }
};

template <>
struct WideIo<BFloat16> : BufferedIo<float, 2, WideIo<BFloat16>> {
  using BufferedIo::load;
  using BufferedIo::store;
  static void load(const float* from, F32 (&v)[2]) {
    F32 first, second;
    std::memcpy(&first, from, sizeof(F32));
    std::memcpy(&second, from + lanes, sizeof(F32));
    v[0] = picked<even>(first, second, Lanes());
    v[1] = picked<odd>(first, second, Lanes());
  }
  static void store(float* to, const F32 (&v)[2]) {
    const F32 first = picked<merged>(v[0], v[1], Lanes());
    const F32 second = picked<merged_on>(v[0], v[1], Lanes());
    std::memcpy(to, &first, sizeof(F32));
    std::memcpy(to + lanes, &second, sizeof(F32));
  }

 private:
  static constexpr int lanes = Vector<float>::lanes;
  using Lanes = std::make_integer_sequence<int, lanes>;

  static constexpr int even(int i) {
    return 2 * i;
  }
  static constexpr int odd(int i) {
    return 2 * i + 1;
  }
  static constexpr int merged(int i) {
    return i % 2 * lanes + i / 2;
  }
  static constexpr int merged_on(int i) {
    return merged(i + lanes);
  }

  // The elements at(0), at(1), ... of the vectors `a` and `b` put together.
  template <int (*at)(int), int... i>
  static F32 picked(F32 a, F32 b, std::integer_sequence<int, i...>) {
#if defined(__clang__)
    return __builtin_shufflevector(a, b, at(i)...);
#else
    return __builtin_shuffle(a, b, I32{at(i)...});
#endif
  }
};

} // namespace
