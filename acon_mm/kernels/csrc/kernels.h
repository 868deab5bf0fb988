// The loops of ACON-C, one table of them per instruction set. No PyTorch in here: kernels.cpp is compiled once per
// instruction set, and what it includes must not reach the linker under names that another copy shares.
#pragma once

#include <cstdint>

namespace acon {

// The element types of tensors; bfloat16 and float16 are held as their bits.
struct BFloat16 {
  uint16_t bits;
};
struct Float16 {
  uint16_t bits;
};

// Parameters and sums are float, or double for double.
template <typename S>
struct Compute {
  using type = float;
};
template <>
struct Compute<double> {
  using type = double;
};

// A parameter per sample and channel; a stride of 0 repeats.
template <typename A>
struct Parameter {
  const A* data;
  int64_t sample_stride;
  int64_t channel_stride;

  const A* at(int64_t sample, int64_t channel) const {
    return data + sample * sample_stride + channel * channel_stride;
  }
};

template <typename A>
struct Parameters {
  Parameter<A> p1, p2, beta;
};

// Sums over a chunk, for the gradients of the parameters.
enum Sum { kP1Sum, kP2Sum, kBetaSum, kSums };

// Planes hold `count` consecutive elements of one sample and channel. Rows hold the `channels` of one position;
// `count` rows follow one another, all of one sample.
template <typename S>
struct Kernels {
  using A = typename Compute<S>::type;

  // past_cache: y is not to stay in the cache.
  void (*plane_forward)(const S* x, S* y, int64_t count, A p1, A p2, A beta, bool past_cache);
  void (*plane_backward)(const S* grad_y, const S* x, S* grad_x, int64_t count, A p1, A p2, A beta, A* sums);
  A (*plane_sum)(const S* x, int64_t count);
  void (*add_to_plane)(S* x, int64_t count, A value);

  void (*rows_forward)(
      const S* x, S* y, int64_t count, int64_t channels, int64_t sample, const Parameters<A>& parameters);
  // `sums` has kSums times `channels` elements.
  void (*rows_backward)(
      const S* grad_y, const S* x, S* grad_x, int64_t count, int64_t channels, int64_t sample,
      const Parameters<A>& parameters, A* sums);
  void (*rows_sum)(const S* x, int64_t count, int64_t channels, A* sums);
  void (*add_to_rows)(S* x, int64_t count, int64_t channels, const A* values);
};

// A linear layer for few samples, y = x w^T + b with x (samples, in), w (out, in) and y (samples, out): the outputs from
// `begin` to `end`.
struct Linear {
  void (*forward)(
      const float* x, const float* weight, const float* bias, float* y, int64_t samples, int64_t in, int64_t out,
      int64_t begin, int64_t end);
  // grad_weight of these outputs is set; what they have in grad_x is added.
  void (*backward)(
      const float* grad_y, const float* x, const float* weight, float* grad_x, float* grad_weight, int64_t samples,
      int64_t in, int64_t out, int64_t begin, int64_t end);
};

struct Table {
  const char* name;
  Linear linear;
  Kernels<float> float32;
  Kernels<double> float64;
  Kernels<BFloat16> bfloat16;
  Kernels<Float16> float16;
};

// One per instruction set; which of them exist is the build's choice (setup.py).
extern const Table baseline_table;
extern const Table avx2_table;
extern const Table avx512_table;

} // namespace acon
