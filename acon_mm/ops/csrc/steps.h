// What the loops over planes and over rows share: steps, their loads and stores, and prefetching.
#pragma once

#include "formula.h"
#include "kernels.h"
#include "simd.h"

// The loops call functions that are given as arguments. These must become a part of the loop.
#define ALWAYS_INLINE __attribute__((always_inline)) inline
#define ALWAYS_INLINE_LAMBDA __attribute__((always_inline))

namespace {

// Prefetches the beginning of the next page, once per page. Some processors prefetch only to the end of a page of 4
// KiB. Prefetching every line would cost the others more than it brings.
template <typename S>
inline void prefetch(const S* p) {
  constexpr uintptr_t page = 4096, line = 64, lines = 2;
  const uintptr_t from = reinterpret_cast<uintptr_t>(p) % page;
  if (from < Io<S>::step * sizeof(S)) {
    for (uintptr_t i = 0; i < lines; ++i) {
      __builtin_prefetch(reinterpret_cast<const char*>(p) - from + page + i * line);
    }
  }
}

// Prefetches one line. Loops that compute little gain from prefetching every line.
template <typename S>
inline void prefetch_line(const S* p) {
  __builtin_prefetch(reinterpret_cast<const char*>(p) + 2048);
}

// Loads and stores a whole step (see simd.h).
template <typename S>
struct Whole {
  using A = typename Io<S>::A;
  using Step = typename Io<S>::V[Io<S>::group];

  static void load(const S* from, Step& v) {
    Io<S>::load(from, v);
  }
  static void store(S* to, const Step& v) {
    Io<S>::store(to, v);
  }
  static void store_past_cache(S* to, const Step& v) {
    Io<S>::store_past_cache(to, v);
  }
  static void load_wide(const A* from, Step& v) {
    WideIo<S>::load(from, v);
  }
  static void store_wide(A* to, const Step& v) {
    WideIo<S>::store(to, v);
  }
};

// Loads and stores the last `n` elements, fewer than a step.
template <typename S>
struct Rest {
  using A = typename Io<S>::A;
  using Step = typename Io<S>::V[Io<S>::group];
  int n;

  void load(const S* from, Step& v) const {
    Io<S>::load(from, v, n);
  }
  void store(S* to, const Step& v) const {
    Io<S>::store(to, v, n);
  }
  void store_past_cache(S* to, const Step& v) const {
    store(to, v);
  }
  void load_wide(const A* from, Step& v) const {
    WideIo<S>::load(from, v, n);
  }
  void store_wide(A* to, const Step& v) const {
    WideIo<S>::store(to, v, n);
  }
};

template <typename S>
struct Steps {
  using A = typename acon::Compute<S>::type;
  using V = typename Vector<A>::type;
  using I = typename Vector<A>::ints;
  static constexpr int group = Io<S>::group;
  static constexpr int step = Io<S>::step;

  // Calls f(i, io) for each step of a plane, or of the channels of a row. `io` is Whole or Rest.
  template <typename F>
  static void for_steps(int64_t count, F f) {
    int64_t i = 0;
    for (; i + step <= count; i += step) {
      f(i, Whole<S>());
    }
    if (i < count) {
      f(i, Rest<S>{static_cast<int>(count - i)});
    }
  }
};

} // namespace
