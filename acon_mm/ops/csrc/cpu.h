// What runs on a CPU, without autograd. ops.cpp and meta_ops.cpp make operators of it. p1, p2 and beta are (C,), (N, C)
// or (N, 1).
#pragma once

#include <ATen/ATen.h>
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
Gradients acon_c_backward_cpu(
    const Tensor& grad_y, const Tensor& x, const Tensor& p1, const Tensor& p2, const Tensor& beta,
    int64_t channel_dim, Mask output_mask);

// The mean of each sample and channel, (N, C), in the compute type.
Tensor channel_mean_cpu(const Tensor& x, int64_t channel_dim);

// `grad_x` plus the gradient that comes back through the mean. In place where nobody else can see `grad_x`.
Tensor with_gradient_of_mean(Tensor grad_x, const Tensor& grad_mean, int64_t channel_dim);

// Meta-ACON's generator on the mean of x, (N, C). With batch statistics, it moves the running statistics of the norms.
GeneratorOutputs generator_cpu(const Tensor& mean, const Generator& generator);
GeneratorGradients generator_backward_cpu(
    const Tensor& grad_beta, const Tensor& mean, const Generator& generator, const GeneratorOutputs& outputs);

} // namespace acon
