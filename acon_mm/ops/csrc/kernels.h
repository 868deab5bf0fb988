// The loops of ACON-C and of Meta-ACON's generator: one table of functions per instruction set. This header includes
// nothing of PyTorch. kernels.cpp is compiled once per instruction set, and the linker would merge inline functions of
// PyTorch that were compiled for different ones.
#pragma once

#include <cstdint>

namespace acon {

// The element types without a type in C++17, as their bits.
struct BFloat16 {
  uint16_t bits;
};
struct Float16 {
  uint16_t bits;
};

// What is computed in, and the type of parameters and sums: double for double, float for all others.
template <typename S>
struct Compute {
  using type = float;
};
template <>
struct Compute<double> {
  using type = double;
};

// A parameter of each sample and channel. A stride of 0 repeats its values.
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

// The same where a batch norm is before the ACON, which has z = scale u + shift out of its input u. These are per channel.
template <typename A>
struct NormedParameters : Parameters<A> {
  const A *scale, *shift;
};

// The same for backward: the gradient of u is a grad_z + b u + c. The sums need the mean of u.
template <typename A>
struct NormedGradients : NormedParameters<A> {
  const A *mean, *a, *b;
  Parameter<A> c;
};

// A task of planes: `channels` planes of `count` elements of each unit. They follow one another; units follow at a
// distance. With one channel, a plane may be a part of one.
struct Planes {
  int64_t units, channels, count;
  int64_t unit_stride;
  int64_t sample, channel; // of the first plane; each further unit is the next sample
};

// The most channels that a task of planes has.
constexpr int64_t kMaxPlanes = 256;

// A task of rows: `count` rows of `channels` elements of each unit, all one after the other.
struct Rows {
  int64_t units, count, channels;
  int64_t sample; // of the first row; each further unit is the next sample
};

// Where the sums over a task go that the gradients of p1, p2 and beta are made of. p1 and p2 have one per channel. So
// has beta where `beta_stride` is 0; otherwise, each unit has its own, at this distance. Null: no sums are computed.
template <typename A>
struct SumsTo {
  A *p1, *p2, *beta;
  int64_t beta_stride;
  // Where a norm is before: of grad_z and of grad_z (u - mean), one per channel.
  A *z, *z_u;
};

// x, y, u and gradients begin at the first element of the task.
template <typename S>
struct Kernels {
  using A = typename Compute<S>::type;

  // past_cache: write y to memory without the cache.
  void (*planes_forward)(const S* x, S* y, const Planes& planes, const Parameters<A>& parameters, bool past_cache);
  // grad_x may be null. p1 and p2 must be the same for all units.
  void (*planes_backward)(
      const S* grad_y, const S* x, S* grad_x, const Planes& planes, const Parameters<A>& parameters,
      const SumsTo<A>& sums);
  // The same with a norm before, of its input u.
  void (*normed_planes_forward)(const S* u, S* y, const Planes& planes, const NormedParameters<A>& parameters);
  void (*normed_planes_backward)(
      const S* grad_y, const S* u, S* grad_u, const Planes& planes, const NormedGradients<A>& parameters,
      const SumsTo<A>& sums);
  // The sums of each unit follow at a distance of `sums_stride`, the values of `add_to_planes` at `values_stride`.
  void (*planes_sum)(const S* x, const Planes& planes, A* sums, int64_t sums_stride);
  void (*add_to_planes)(S* x, const Planes& planes, const A* values, int64_t values_stride);

  void (*rows_forward)(const S* x, S* y, const Rows& rows, const Parameters<A>& parameters);
  void (*rows_backward)(
      const S* grad_y, const S* x, S* grad_x, const Rows& rows, const Parameters<A>& parameters,
      const SumsTo<A>& sums);
  void (*normed_rows_forward)(const S* u, S* y, const Rows& rows, const NormedParameters<A>& parameters);
  void (*normed_rows_backward)(
      const S* grad_y, const S* u, S* grad_u, const Rows& rows, const NormedGradients<A>& parameters,
      const SumsTo<A>& sums);
  void (*rows_sum)(const S* x, const Rows& rows, A* sums, int64_t sums_stride);
  void (*add_to_rows)(S* x, const Rows& rows, const A* values, int64_t values_stride);
};

// A layer of Meta-ACON's generator, for a few samples:
//
//   z = x w^T + b,  n = (z - mean) rstd g + c,  y = scale sigmoid(n)
//
// Shapes: x (samples, in), w (out, in); z, n and y (samples, out); all others (out,). Without a norm, n = z. Without a
// sigmoid, y = n.
template <typename A>
struct Layer {
  int64_t samples, in, out;
  const A *x, *weight, *bias;
  // g and c; null where there is no norm.
  const A *norm_weight, *norm_bias;
  // True: mean and variance are those of the samples, and the running statistics move towards them by `momentum`.
  // False: mean and variance are the running statistics.
  bool batch_statistics;
  A *running_mean, *running_var;
  A momentum, eps;
  // 0 where there is no sigmoid.
  A scale;
  // The results of forward. z, mean and rstd only where there is a norm.
  A *y, *z, *mean, *rstd;
};

template <typename A>
struct LayerGradients {
  const A* y;
  // Scratch memory, (samples, out).
  A* z;
  // The gradient of x must be 0 at first.
  A *x, *weight, *bias, *norm_weight, *norm_bias;
};

// Both functions compute the outputs from `begin` to `end`.
template <typename A>
struct LayerKernels {
  void (*forward)(const Layer<A>& layer, int64_t begin, int64_t end);
  // Adds to the gradient of x and sets all others.
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

// One per instruction set. setup.py decides which of them are built.
extern const Table baseline_table;
extern const Table avx2_table;
extern const Table avx512_table;

// The table for this processor, or for ATEN_CPU_CAPABILITY where that is set.
const Table& table();

} // namespace acon
