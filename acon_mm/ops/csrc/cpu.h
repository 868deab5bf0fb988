// What runs on a CPU, without autograd. ops.cpp and meta_ops.cpp make operators of it. p1, p2 and beta are (C,), (N, C)
// or (N, 1).
#pragma once

#include <ATen/ATen.h>
#include <functional>
#include <tuple>

#include "arguments.h"
#include "generator.h"

namespace acon {

using at::Tensor;
// Of x, p1, p2 and beta.
using Gradients = std::tuple<Tensor, Tensor, Tensor, Tensor>;

// The gradients that somebody needs; the others are undefined tensors.
using Mask = std::array<bool, 4>;

Tensor acon_c_cpu(const Tensor& x, const Tensor& p1, const Tensor& p2, const Tensor& beta, int64_t channel_dim);
// Whether these kernels take the tensors.
bool cpu_serves(const Tensor& x, const Tensor& p1, const Tensor& p2, const Tensor& beta);

// In place.
void acon_c_cpu_(const Tensor& x, const Tensor& p1, const Tensor& p2, const Tensor& beta, int64_t channel_dim);
// The gradient of x takes the memory of `grad_y` where that is ours.
Gradients acon_c_backward_cpu(
    Tensor grad_y, const Tensor& x, const Tensor& p1, const Tensor& p2, const Tensor& beta,
    int64_t channel_dim, Mask output_mask);

// Whether nobody else has the tensor or a view of it, and no graph records it: then it may be changed.
bool is_ours(const Tensor& t);

// A batch norm: its output is z = scale u + shift, with its input u.
struct Norm {
  enum Row { scale, shift, mean, rstd };
  Tensor values; // (4, C): the rows, in the compute type
  bool batch_statistics; // whether mean and rstd are those of u
  Tensor mean_of_samples; // of u, (N, C); only where somebody needs the gradient of the mean of z

  Tensor operator[](Row row) const {
    return values[row];
  }
};

// What a batch norm computes with, per channel.
struct NormTensors {
  Tensor mean, variance; // as rstd instead, if `is_rstd`
  bool is_rstd;
  double eps;
  Tensor weight, bias; // may be undefined
};
// `Norm::values` of a norm whose input has the dtype and channels of `u`.
Tensor norm_values_cpu(const Tensor& u, const NormTensors& of);

// ACON-C of z. u must be walkable.
Tensor normed_acon_c_cpu(
    const Tensor& u, const Tensor& norm_values, const Tensor& p1, const Tensor& p2, const Tensor& beta,
    int64_t channel_dim);

// `weight` and `bias` are those of the norm.
struct NormedAconGradients {
  Tensor u, weight, bias, p1, p2, beta;
};
// Returns the gradient of the mean of z over space, (N, C), out of that of beta.
using GradientOfMean = std::function<Tensor(const Tensor& grad_beta)>;
// The gradient of u takes the memory of `grad_y` where that is ours.
NormedAconGradients normed_acon_c_backward_cpu(
    Tensor grad_y, const Tensor& u, const Norm& norm, const Tensor& p1, const Tensor& p2, const Tensor& beta,
    int64_t channel_dim, const GradientOfMean& gradient_of_mean = nullptr);

// The mean of each sample and channel, (N, C), in the compute type.
Tensor channel_mean_cpu(const Tensor& x, int64_t channel_dim);

// `grad_x` plus the gradient that comes back through the mean. In place where nobody else can see `grad_x`.
Tensor with_gradient_of_mean(Tensor grad_x, const Tensor& grad_mean, int64_t channel_dim);

// Meta-ACON's generator on the mean of x, (N, C). With batch statistics, it moves the running statistics of the norms.
GeneratorOutputs generator_cpu(const Tensor& mean, const Generator& generator);
GeneratorGradients generator_backward_cpu(
    const Tensor& grad_beta, const Tensor& mean, const Generator& generator, const GeneratorOutputs& outputs);

} // namespace acon
