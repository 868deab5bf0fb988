// Vectors as wide as the instruction set has them, by the compilers' vector extension: what is written here once becomes
// SSE2, NEON, AVX2 or AVX-512. Everything is in an unnamed namespace, so that no copy stands in for another.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

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
typedef uint16_t U16 __attribute__((vector_size(kBytes / 2)));
typedef double F64 __attribute__((vector_size(kBytes)));
typedef int64_t I64 __attribute__((vector_size(kBytes)));

// The vector of an arithmetic type, and integers of its width.
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

// NaN in `x` stays: both return `x` unless it is beyond the limit.
template <typename V>
V at_most(V x, V limit) {
  return limit < x ? limit : x;
}
template <typename V>
V at_least(V x, V limit) {
  return limit > x ? limit : x;
}

#if defined(__AVX512F__)
// The compiler makes a comparison and a blend of the above; min and max are one instruction with the same rule for NaN.
template <>
F32 at_most(F32 x, F32 limit) {
  return (F32)_mm512_min_ps((__m512)limit, (__m512)x);
}
template <>
F32 at_least(F32 x, F32 limit) {
  return (F32)_mm512_max_ps((__m512)limit, (__m512)x);
}
#elif defined(__AVX2__)
template <>
F32 at_most(F32 x, F32 limit) {
  return (F32)_mm256_min_ps((__m256)limit, (__m256)x);
}
template <>
F32 at_least(F32 x, F32 limit) {
  return (F32)_mm256_max_ps((__m256)limit, (__m256)x);
}
#endif

// By halves, so that the additions depend on one another as little as can be.
template <typename V>
auto sum_of_lanes(V v) {
  constexpr int lanes = sizeof(V) / sizeof(v[0]);
  decltype(v[0] + 0) values[lanes];
  std::memcpy(values, &v, sizeof(V));
  for (int width = lanes / 2; width > 0; width /= 2) {
    for (int i = 0; i < width; ++i) {
      values[i] += values[i + width];
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

// 2^t, 0 below the smallest normal number and infinity above the largest; NaN stays.
//
// t = n + f with an integer n and |f| <= 1/2: 2^f is a polynomial, 2^n is put together from its bits. Adding `kShift`, whose
// last bit is worth 1, rounds t to n and leaves n plus the exponent's bias in the low bits.
F32 exp2(F32 t) {
  constexpr float kShift = 12582912.0f + 127.0f;
  t = at_least(at_most(t, broadcast<F32>(128.0f)), broadcast<F32>(-127.0f));
  const F32 shifted = t + kShift;
  const F32 f = t - (shifted - kShift);
  // Minimax for the relative error, 1.9e-9.
  F32 p = f * 1.534581104e-4f + 1.33999312e-3f;
  p = p * f + 9.61848896e-3f;
  p = p * f + 5.550328777e-2f;
  p = p * f + 2.402264689e-1f;
  p = p * f + 6.931472057e-1f;
  p = p * f + 1.0f;
  return p * (F32)((I32)shifted << 23);
}

F64 exp2(F64 t) {
  constexpr double kShift = 6755399441055744.0 + 1023.0;
  t = at_least(at_most(t, broadcast<F64>(1024.0)), broadcast<F64>(-1023.0));
  const F64 shifted = t + kShift;
  const F64 f = t - (shifted - kShift);
  // Taylor's terms ln(2)^k / k!; the first that is left out is below 5e-18.
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

// Loading and storing: `Io<S>` goes between elements in memory and vectors of `Compute<S>`. The forms with `n` handle fewer
// elements than a vector has, and touch no others; lanes beyond are 0.
template <typename S, typename Derived>
struct IoBase {
  using A = typename acon::Compute<S>::type;
  using V = typename Vector<A>::type;
  static constexpr int lanes = Vector<A>::lanes;

  static V load(const S* from, int n) {
    S buffer[lanes] = {};
    std::memcpy(buffer, from, n * sizeof(S));
    return Derived::load(buffer);
  }
  static void store(S* to, V v, int n) {
    S buffer[lanes];
    Derived::store(buffer, v);
    std::memcpy(to, buffer, n * sizeof(S));
  }
};

template <typename S>
struct Io : IoBase<S, Io<S>> { // float and double
  using typename IoBase<S, Io<S>>::V;
  using IoBase<S, Io<S>>::load;
  using IoBase<S, Io<S>>::store;
  static V load(const S* from) {
    V v;
    std::memcpy(&v, from, sizeof(V));
    return v;
  }
  static void store(S* to, V v) {
    std::memcpy(to, &v, sizeof(V));
  }
};

#if defined(__AVX512F__)
template <>
F32 IoBase<float, Io<float>>::load(const float* from, int n) {
  return (F32)_mm512_maskz_loadu_ps((__mmask16)((1u << n) - 1), from);
}
template <>
void IoBase<float, Io<float>>::store(float* to, F32 v, int n) {
  _mm512_mask_storeu_ps(to, (__mmask16)((1u << n) - 1), (__m512)v);
}
#elif defined(__AVX2__)
__m256i first_lanes(int n) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
template <>
F32 IoBase<float, Io<float>>::load(const float* from, int n) {
  return (F32)_mm256_maskload_ps(from, first_lanes(n));
}
template <>
void IoBase<float, Io<float>>::store(float* to, F32 v, int n) {
  _mm256_maskstore_ps(to, first_lanes(n), (__m256)v);
}
#endif

template <>
struct Io<BFloat16> : IoBase<BFloat16, Io<BFloat16>> {
  using IoBase::load;
  using IoBase::store;
  static F32 load(const BFloat16* from) {
    U16 bits;
    std::memcpy(&bits, from, sizeof(bits));
    return (F32)(__builtin_convertvector(bits, U32) << 16);
  }
  static void store(BFloat16* to, F32 v) {
    const U32 bits = (U32)v;
    const U32 to_nearest_even = bits + 0x7fff + ((bits >> 16) & 1);
    // Rounding could carry a NaN over to infinity.
    const U32 rounded = v == v ? to_nearest_even : (bits | 0x400000);
    const U16 half = __builtin_convertvector(rounded >> 16, U16);
    std::memcpy(to, &half, sizeof(half));
  }
};

template <>
struct Io<Float16> : IoBase<Float16, Io<Float16>> {
  using IoBase::load;
  using IoBase::store;
#if defined(__AVX512F__)
  static F32 load(const Float16* from) {
    return (F32)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)from));
  }
  static void store(Float16* to, F32 v) {
    _mm256_storeu_si256((__m256i*)to, _mm512_cvtps_ph((__m512)v, _MM_FROUND_TO_NEAREST_INT));
  }
#elif defined(__AVX2__)
  static F32 load(const Float16* from) {
    return (F32)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)from));
  }
  static void store(Float16* to, F32 v) {
    _mm_storeu_si128((__m128i*)to, _mm256_cvtps_ph((__m256)v, _MM_FROUND_TO_NEAREST_INT));
  }
#else
  typedef _Float16 Halves __attribute__((vector_size(kBytes / 2)));
  static F32 load(const Float16* from) {
    Halves halves;
    std::memcpy(&halves, from, sizeof(halves));
    return __builtin_convertvector(halves, F32);
  }
  static void store(Float16* to, F32 v) {
    const Halves halves = __builtin_convertvector(v, Halves);
    std::memcpy(to, &halves, sizeof(halves));
  }
#endif
};

} // namespace
