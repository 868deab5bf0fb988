// What cpu.cpp computes; ops.cpp makes operators of it. Parameters of ACON-C are (C,), (N, C) or (N, 1).
#pragma once

#include <ATen/ATen.h>
#include <tuple>

namespace acon {

using at::Tensor;
// Of x, p1, p2 and beta.
using Gradients = std::tuple<Tensor, Tensor, Tensor, Tensor>;

// The name of the table of kernels in use.
const char* instruction_set();

// The type that is computed in: float64 for float64, float32 for all others.
at::ScalarType compute_type(const Tensor& x);

Tensor acon_c_cpu(const Tensor& x, const Tensor& p1, const Tensor& p2, const Tensor& beta, int64_t channel_dim);
Gradients acon_c_backward_cpu(
    const Tensor& grad_y, const Tensor& x, const Tensor& p1, const Tensor& p2, const Tensor& beta,
    int64_t channel_dim);

// The mean of each sample and channel, (N, C).
Tensor channel_mean_cpu(const Tensor& x, int64_t channel_dim);
// Adds `values`, (N, C), to all that they stand for in `x`, which is contiguous or channels_last.
void add_per_channel_(const Tensor& x, const Tensor& values, int64_t channel_dim);

// `grad_x` plus what comes back through the mean; in place where nobody else can see it.
Tensor with_gradient_of_mean(Tensor grad_x, const Tensor& grad_mean, int64_t channel_dim);

// A layer of Meta-ACON's generator (see Layer in kernels.h): a linear layer and, where there are tensors of one, a batch
// norm. Outputs have z, mean and rstd, and gradients those of a norm, where there is a norm.
struct GeneratorLayer {
  Tensor weight, bias, norm_weight, norm_bias, running_mean, running_var, batches;
  bool batch_statistics;
  double momentum, eps, sigmoid_scale;
};
struct GeneratorOutputs {
  Tensor y, z, mean, rstd;
};
struct GeneratorGradients {
  Tensor x, weight, bias, norm_weight, norm_bias;
};
GeneratorOutputs generator_layer(const Tensor& x, const GeneratorLayer& layer);
GeneratorGradients generator_layer_backward(
    const Tensor& grad_y, const Tensor& x, const GeneratorLayer& layer, const GeneratorOutputs& outputs);

} // namespace acon
