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

// A layer of Meta-ACON's generator on the pooled maps of a few samples:
//
//   z = x w^T + b,  n = (z - mean) rstd g + c,  y = scale sigmoid(n)
//
// with x (samples, in), w (out, in), z, n and y (samples, out), all else (out,). Without a norm n = z, and without a
// sigmoid y = n.
template <typename A>
struct Layer {
  int64_t samples, in, out;
  const A *x, *weight, *bias;
  // g and c. Null: no norm.
  const A *norm_weight, *norm_bias;
  // Whether mean and variance are those of the samples, which then move the running ones by `momentum`; otherwise they
  // are the running ones.
  bool batch_statistics;
  A *running_mean, *running_var;
  A momentum, eps;
  // 0: no sigmoid.
  A scale;
  // What forward sets: y, and with a norm the others as well.
  A *y, *z, *mean, *rstd;
};

template <typename A>
struct LayerGradients {
  const A* y;
  // Scratch, (samples, out).
  A* z;
  // x's starts as 0.
  A *x, *weight, *bias, *norm_weight, *norm_bias;
};

// Both handle the outputs from `begin` to `end`.
template <typename A>
struct LayerKernels {
  void (*forward)(const Layer<A>& layer, int64_t begin, int64_t end);
  // Adds to the gradient of x, sets all others.
  void (*backward)(const Layer<A>& layer, const LayerGradients<A>& grad, int64_t begin, int64_t end);
};

struct Table {
  const char* name;
  LayerKernels<float> layer32;
  LayerKernels<double> layer64;
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
