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

// A layer of Meta-ACON's generator: x (N, in) times weight (out, in), (out, in, 1, 1) or such, plus bias (out,); a batch norm
// where that has a weight; `sigmoid_scale` times the sigmoid where that is not 0.
// y; with a norm also z, mean, rstd and, of batch statistics, the unbiased variance. What does not exist is empty.
using OutputsOfLayer = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor>;
// Of x, weight, bias, and the norm's weight and bias.
using GradientsOfLayer = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor>;
using MaybeTensor = std::optional<Tensor>;

OutputsOfLayer generator_layer_cpu(
    const Tensor& x, const Tensor& weight, const Tensor& bias, const MaybeTensor& norm_weight,
    const MaybeTensor& norm_bias, const MaybeTensor& running_mean, const MaybeTensor& running_var,
    bool batch_statistics, double eps, double sigmoid_scale);
GradientsOfLayer generator_layer_backward_cpu(
    const Tensor& grad_y, const Tensor& x, const Tensor& weight, const Tensor& bias, const MaybeTensor& norm_weight,
    const MaybeTensor& norm_bias, const Tensor& y, const Tensor& z, const Tensor& mean, const Tensor& rstd,
    bool batch_statistics, double eps, double sigmoid_scale);

} // namespace acon
