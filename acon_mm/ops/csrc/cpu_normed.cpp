// ACON-C of a batch norm's output, on a CPU and without autograd, in as few passes as the norm alone takes.
#include <cmath>

#include "cpu_tasks.h"

namespace acon {
namespace {

// The gradients of the norm's input and parameters out of the sums over its elements. The gradient of the input is made
// by a second pass, as a grad_z + b u + c.
struct SecondPass {
  Tensor b, c; // a is the norm's scale
};

// A row of `Norm::values`.
template <typename A>
const A* row_of(const Tensor& values, Norm::Row row) {
  return const_data<A>(values) + row * values.size(1);
}

// `grad_mean`, (N, C), is the gradient of the mean of z over space, of `area` elements; undefined where nobody needs it.
// It is the same for all these elements, so it changes the sums of grad_z too.
template <typename A>
SecondPass second_pass(
    const Norm& norm, const Tensor& sum_z, const Tensor& sum_z_u, const Tensor& grad_mean, int64_t area,
    int64_t elements) {
  const int64_t channels = norm.values.size(1), samples = grad_mean.defined() ? grad_mean.size(0) : 0;
  SecondPass pass{at::empty_like(sum_z), at::empty_like(grad_mean.defined() ? grad_mean : sum_z)};
  const A *scale = row_of<A>(norm.values, Norm::scale), *mean = row_of<A>(norm.values, Norm::mean),
          *rstd = row_of<A>(norm.values, Norm::rstd), *of_mean = const_data<A>(grad_mean),
          *mean_u = const_data<A>(norm.mean_of_samples);
  A *z = data<A>(sum_z), *z_u = data<A>(sum_z_u), *b = data<A>(pass.b), *c = data<A>(pass.c);
  for (int64_t i = 0; i < channels; ++i) {
    for (int64_t n = 0; n < samples; ++n) {
      const int64_t at = n * channels + i;
      z[i] += of_mean[at];
      z_u[i] += of_mean[at] * (mean_u[at] - mean[i]);
    }
    A shift = 0;
    b[i] = 0;
    if (norm.batch_statistics) {
      b[i] = -scale[i] * rstd[i] * rstd[i] * z_u[i] / elements;
      shift = -scale[i] * z[i] / elements - b[i] * mean[i];
    }
    for (int64_t n = 0; n < samples; ++n) {
      c[n * channels + i] = shift + scale[i] * of_mean[n * channels + i] / area;
    }
    if (samples == 0) {
      c[i] = shift;
    }
  }
  return pass;
}

} // namespace

Tensor norm_values_cpu(const Tensor& u, const NormTensors& of) {
  const auto type = compute_type(u);
  const int64_t channels = of.mean.numel();
  const Tensor values = at::empty({4, channels}, u.options().dtype(type));
  dispatch(u, "norm_values", [&](auto element) {
    using A = typename Compute<decltype(element)>::type;
    const auto wide = [&](const Tensor& t) { return t.defined() ? t.to(type).contiguous() : t; };
    const Tensor mean = wide(of.mean), variance = wide(of.variance), weight = wide(of.weight), bias = wide(of.bias);
    const A *m = const_data<A>(mean), *v = const_data<A>(variance), *w = const_data<A>(weight),
            *b = const_data<A>(bias);
    A* const to = data<A>(values);
    for (int64_t c = 0; c < channels; ++c) {
      const A rstd = of.is_rstd ? v[c] : 1 / std::sqrt(v[c] + static_cast<A>(of.eps));
      const A scale = w ? rstd * w[c] : rstd;
      to[Norm::scale * channels + c] = scale;
      to[Norm::shift * channels + c] = (b ? b[c] : 0) - m[c] * scale;
      to[Norm::mean * channels + c] = m[c];
      to[Norm::rstd * channels + c] = rstd;
    }
  });
  return values;
}

Tensor normed_acon_c_cpu(
    const Tensor& input, const Tensor& norm_values, const Tensor& p1, const Tensor& p2, const Tensor& beta,
    int64_t channel_dim) {
  const Inputs in(input, p1, p2, beta, channel_dim);
  const Tensor y = at::empty_like(in.x);
  dispatch(in.x, "acon_c", [&](auto element) {
    using S = decltype(element);
    using A = typename Compute<S>::type;
    const NormedParameters<A> parameters{
        in.parameters<A>(), row_of<A>(norm_values, Norm::scale), row_of<A>(norm_values, Norm::shift)};
    const S* u = const_data<S>(in.x);
    S* to = data<S>(y);
    for_each_task(in.layout, [&](const Task& task) {
      if (in.layout.rows) {
        kernels<S>().normed_rows_forward(u + task.offset, to + task.offset, rows(in.layout, task), parameters);
      } else {
        kernels<S>().normed_planes_forward(u + task.offset, to + task.offset, planes(in.layout, task), parameters);
      }
    });
  });
  return y;
}

NormedAconGradients normed_acon_c_backward_cpu(
    Tensor grad_y, const Tensor& input, const Norm& norm, const Tensor& p1, const Tensor& p2, const Tensor& beta,
    int64_t channel_dim, const GradientOfMean& gradient_of_mean) {
  const Inputs in(input, p1, p2, beta, channel_dim);
  const Layout& layout = in.layout;
  const bool ours = is_ours(grad_y) && grad_y.strides() == in.x.strides();
  const Tensor grad = ordered_as(grad_y, in.x);
  const int64_t elements = in.x.numel() / std::max<int64_t>(layout.channels, 1);
  NormedAconGradients result;
  result.u = ours ? grad : at::empty_like(in.x);
  dispatch(in.x, "acon_c_backward", [&](auto element) {
    using S = decltype(element);
    using A = typename Compute<S>::type;
    const S *u = const_data<S>(in.x), *from = const_data<S>(grad);
    const auto pass = [&](S* to, const SecondPass& with, const TaskSums& sums) {
      const NormedGradients<A> parameters{
          {in.parameters<A>(), row_of<A>(norm.values, Norm::scale), row_of<A>(norm.values, Norm::shift)},
          row_of<A>(norm.values, Norm::mean),
          row_of<A>(norm.values, Norm::scale),
          const_data<A>(with.b),
          {const_data<A>(with.c), with.c.dim() == 1 ? 0 : with.c.size(1), 1}};
      for_each_task(layout, [&](const Task& task) {
        const S *const own_u = u + task.offset, *const own_from = from + task.offset;
        S* const own_to = to ? to + task.offset : nullptr;
        if (layout.rows) {
          kernels<S>().normed_rows_backward(
              own_from, own_u, own_to, rows(layout, task), parameters, sums.of<A>(task));
        } else {
          kernels<S>().normed_planes_backward(
              own_from, own_u, own_to, planes(layout, task), parameters, sums.of<A>(task));
        }
      });
    };
    // With running statistics, and without another gradient of z, one pass is enough.
    const bool one_pass = !norm.batch_statistics && !gradient_of_mean;
    const Tensor nothing = at::zeros({layout.channels}, norm.values.options());
    const TaskSums sums(in, true, /*with_norm=*/true);
    pass(one_pass ? data<S>(result.u) : nullptr, {nothing, nothing}, sums);
    result.p1 = total<A>(sums.p1, p1).to(p1.scalar_type());
    result.p2 = total<A>(sums.p2, p2).to(p2.scalar_type());
    const Tensor grad_beta = finite<A>(total<A>(sums.beta, beta));
    const Tensor z = column_sums<A>(sums.z, 1, 1).view(-1), z_u = column_sums<A>(sums.z_u, 1, 1).view(-1);
    const Tensor grad_mean = gradient_of_mean ? gradient_of_mean(grad_beta).contiguous() : Tensor();
    if (!one_pass) {
      const int64_t area = elements / in.x.size(0);
      pass(data<S>(result.u), second_pass<A>(norm, z, z_u, grad_mean, area, elements), TaskSums(in, false, true));
    }
    result.beta = grad_beta.to(beta.scalar_type());
    result.bias = z;
    result.weight = z_u * norm[Norm::rstd];
  });
  return result;
}

} // namespace acon
