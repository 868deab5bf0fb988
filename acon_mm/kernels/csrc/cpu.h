// What cpu.cpp computes; ops.cpp makes operators of it. Parameters of ACON-C are (C,), (N, C) or (N, 1).
#pragma once

#include <ATen/ATen.h>
#include <tuple>

namespace acon {

using at::Tensor;
// Of x, p1, p2 and beta; of x, weight and bias.
using Gradients = std::tuple<Tensor, Tensor, Tensor, Tensor>;
using LinearGradients = std::tuple<Tensor, Tensor, Tensor>;

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

// x (N, in) times weight (out, in), (out, in, 1, 1) or such, plus bias (out,).
Tensor pooled_linear_cpu(const Tensor& x, const Tensor& weight, const Tensor& bias);
LinearGradients pooled_linear_backward_cpu(const Tensor& grad_y, const Tensor& x, const Tensor& weight);
// The same out of PyTorch's operators: for many samples, and for double backward.
LinearGradients composed_linear_backward(const Tensor& grad_y, const Tensor& x, const Tensor& weight);

} // namespace acon
