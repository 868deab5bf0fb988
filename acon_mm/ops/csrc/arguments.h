// The checks of the operators' arguments. ops/arguments.py has the same ones, for where there is no compiled library.
#pragma once

#include <ATen/ATen.h>

#include "generator.h"

namespace acon {

// What is computed in: float64 for float64, float32 for all others.
inline at::ScalarType compute_type(const Tensor& x) {
  return x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
}

// The channel dimension of x, counted from the front.
inline int64_t check_input(const Tensor& x, int64_t channel_dim) {
  TORCH_CHECK(x.is_floating_point(), "ACON takes an input of a floating dtype, got ", x.scalar_type());
  const int64_t rank = x.dim(), dim = channel_dim < 0 ? channel_dim + rank : channel_dim;
  TORCH_CHECK_INDEX(
      0 < dim && dim < rank, "channel_dim must be from 1 to ", rank - 1, " or negative for an input of ", rank,
      " dimensions, of which the first is the batch, got ", channel_dim);
  return dim;
}

inline void check_parameter(const Tensor& parameter, const Tensor& x, int64_t dim, int64_t channel_dim) {
  TORCH_CHECK(
      parameter.device() == x.device(), "ACON takes its input and parameters on one device, got an input on ",
      x.device(), " and a parameter on ", parameter.device(), ": move one of them by .to()");
  TORCH_CHECK(
      parameter.is_floating_point(), "ACON takes parameters of a floating dtype, got ", parameter.scalar_type());
  const auto samples = x.sym_size(0), channels = x.sym_size(dim);
  const int64_t rank = parameter.dim();
  TORCH_CHECK(
      (rank == 1 && parameter.sym_size(0) == channels) ||
          (rank == 2 && parameter.sym_size(0) == samples &&
           (parameter.sym_size(1) == channels || parameter.sym_size(1) == 1)),
      "a parameter of shape ", parameter.sym_sizes(), " does not fit an input of shape ", x.sym_sizes(),
      " with channels at dimension ", channel_dim, ": it must be (C,), (N, C) or (N, 1)");
}

inline int64_t check_arguments(
    const Tensor& x, const Tensor& p1, const Tensor& p2, const Tensor& beta, int64_t channel_dim) {
  const int64_t dim = check_input(x, channel_dim);
  for (const Tensor* parameter : {&p1, &p2, &beta}) {
    check_parameter(*parameter, x, dim, channel_dim);
  }
  return dim;
}

inline void check_gradient(const Tensor& grad_y, const Tensor& x) {
  TORCH_CHECK(
      grad_y.device() == x.device() && grad_y.scalar_type() == x.scalar_type() && grad_y.sym_sizes() == x.sym_sizes(),
      "the gradient of ACON's result must be as its input, ", x.scalar_type(), " of shape ", x.sym_sizes(), " on ",
      x.device(), ", got ", grad_y.scalar_type(), " of shape ", grad_y.sym_sizes(), " on ", grad_y.device());
}

} // namespace acon
