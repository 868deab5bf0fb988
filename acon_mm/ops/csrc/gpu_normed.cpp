// ACON-C of a batch norm's output, on a GPU and without autograd, in as few passes as the norm alone takes.
#include "gpu.h"
#include "layout.h"

namespace acon {

void acon_c_gpu_(const Tensor& x, const Tensor& p1, const Tensor& p2, const Tensor& beta, int64_t channel_dim) {
  const c10::DeviceGuard guard(x.device());
  GpuWalk(x, channel_dim, false).forward({p1, p2, beta}, x);
}

Tensor norm_values_gpu(const Tensor& u, const NormTensors& of) {
  constexpr int64_t columns = 128;
  const c10::DeviceGuard guard(u.device());
  const int64_t channels = of.mean.numel();
  const Tensor values = at::empty({4, channels}, u.options().dtype(at::kFloat));
  const auto read = [](const Tensor& t) { return t.defined() ? t.to(at::kFloat).contiguous() : t; };
  const Tensor mean = read(of.mean), variance = read(of.variance), weight = read(of.weight), bias = read(of.bias);
  Launch launch("norm_values", u);
  launch.pointer(mean).pointer(variance).pointer(weight).pointer(bias).output(values);
  launch.integer(channels).real(of.eps);
  launch.constant(of.is_rstd).constant(of.weight.defined()).constant(of.bias.defined()).constant(columns);
  launch.run(quotient(channels, columns), 4);
  return values;
}

Tensor normed_acon_c_gpu(
    const Tensor& u, const Tensor& norm_values, const Tensor& p1, const Tensor& p2, const Tensor& beta,
    int64_t channel_dim) {
  const c10::DeviceGuard guard(u.device());
  const Tensor y = at::empty_like(u);
  GpuWalk(u, channel_dim, beta.dim() == 2).forward({p1, p2, beta}, y, norm_values);
  return y;
}

NormedAconGradients normed_acon_c_backward_gpu(
    Tensor grad_y, const Tensor& u, const Norm& norm, const Tensor& p1, const Tensor& p2, const Tensor& beta,
    int64_t channel_dim) {
  const c10::DeviceGuard guard(u.device());
  const GpuWalk walk(u, channel_dim, false);
  const GpuParameters parameters{p1, p2, beta};
  const bool ours = is_ours(grad_y) && grad_y.strides() == u.strides();
  const Tensor grad = ordered_as(grad_y, u);
  const auto per_channel = [&](const Tensor& t) { return at::empty({walk.channels}, t.options()); };
  NormedAconGradients result{ours ? grad : at::empty_like(u), per_channel(norm.values), per_channel(norm.values),
                             per_channel(p1), per_channel(p2), per_channel(beta)};
  Tensor correction;
  if (norm.batch_statistics) {
    correction = at::empty({2, walk.channels}, norm.values.options());
  }
  // With running statistics, one pass is enough.
  const auto sums = walk.backward(
      grad, parameters, 5, norm.batch_statistics ? Tensor() : result.u, nullptr, {norm.values, {}});
  finish(
      walk, sums, parameters,
      {result.p1, result.p2, result.beta, norm.values, result.weight, result.bias, correction});
  if (norm.batch_statistics) {
    walk.backward(grad, parameters, 0, result.u, nullptr, {norm.values, correction});
  }
  return result;
}

} // namespace acon
