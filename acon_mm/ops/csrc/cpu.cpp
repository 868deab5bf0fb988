// ACON-C and the mean on a CPU, without autograd. Tensors are cut into tasks (layout.h), which the loops of plane_loops.h
// and row_loops.h compute.
#include "cpu.h"

#include <ATen/TensorSubclassLikeUtils.h>
#include <ATen/core/grad_mode.h>

#include "cpu_tasks.h"

namespace acon {

// As PyTorch's own kernels choose.
const Table& table() {
  static const Table& chosen = []() -> const Table& {
#if defined(ACON_AVX512)
    if (pytorch_uses("AVX512")) {
      return avx512_table;
    }
#endif
#if defined(ACON_AVX2)
    if (pytorch_uses("AVX512") || pytorch_uses("AVX2")) {
      return avx2_table;
    }
#endif
    return baseline_table;
  }();
  return chosen;
}

namespace {

// A result of this many bytes would not stay in the cache, so it is written without it.
constexpr int64_t kPastCache = 16 << 20;

} // namespace

bool cpu_serves(const Tensor& x, const Tensor& p1, const Tensor& p2, const Tensor& beta) {
  const auto type = x.scalar_type();
  const bool wide = type != at::kDouble &&
      (p1.scalar_type() == at::kDouble || p2.scalar_type() == at::kDouble || beta.scalar_type() == at::kDouble);
  return (type == at::kFloat || type == at::kDouble || type == at::kHalf || type == at::kBFloat16) && !wide;
}

static void write_acon_c(const Inputs& in, const Tensor& y) {
  const bool past_cache = static_cast<int64_t>(y.nbytes()) >= kPastCache && !y.is_same(in.x);
  dispatch(in.x, "acon_c", [&](auto element) {
    using S = decltype(element);
    using A = typename Compute<S>::type;
    const auto parameters = in.parameters<A>();
    const S* x = const_data<S>(in.x);
    S* to = data<S>(y);
    for_each_task(in.layout, [&](const Task& task) {
      if (in.layout.rows) {
        kernels<S>().rows_forward(x + task.offset, to + task.offset, rows(in.layout, task), parameters);
      } else {
        kernels<S>().planes_forward(x + task.offset, to + task.offset, planes(in.layout, task), parameters, past_cache);
      }
    });
  });
}

Tensor acon_c_cpu(const Tensor& input, const Tensor& p1, const Tensor& p2, const Tensor& beta, int64_t channel_dim) {
  const Inputs in(input, p1, p2, beta, channel_dim);
  const Tensor y = at::empty_like(in.x);
  write_acon_c(in, y);
  return input.is_same(in.x) ? y : like(input).copy_(y);
}

void acon_c_cpu_(const Tensor& x, const Tensor& p1, const Tensor& p2, const Tensor& beta, int64_t channel_dim) {
  const Inputs in(x, p1, p2, beta, channel_dim);
  write_acon_c(in, in.x);
  if (!x.is_same(in.x)) {
    x.copy_(in.x);
  }
}

Gradients acon_c_backward_cpu(
    Tensor grad_y, const Tensor& input, const Tensor& p1, const Tensor& p2, const Tensor& beta, int64_t channel_dim,
    std::array<bool, 4> output_mask) {
  const auto [want_x, want_p1, want_p2, want_beta] = output_mask;
  const Inputs in(input, p1, p2, beta, channel_dim);
  const Layout& layout = in.layout;
  const bool ours = is_ours(grad_y) && grad_y.strides() == in.x.strides();
  const Tensor grad = ordered_as(grad_y, in.x);
  Tensor grad_x, grad_p1, grad_p2, grad_beta;
  if (want_x) {
    grad_x = ours ? grad : at::empty_like(in.x);
  }
  const TaskSums sums(in, want_p1 || want_p2 || want_beta, /*with_norm=*/false);
  dispatch(in.x, "acon_c_backward", [&](auto element) {
    using S = decltype(element);
    using A = typename Compute<S>::type;
    const auto parameters = in.parameters<A>();
    const S *x = const_data<S>(in.x), *from = const_data<S>(grad);
    S* const to = data<S>(grad_x);
    for_each_task(layout, [&](const Task& task) {
      const S *const own_x = x + task.offset, *const own_from = from + task.offset;
      S* const own_to = to ? to + task.offset : nullptr;
      if (layout.rows) {
        kernels<S>().rows_backward(own_from, own_x, own_to, rows(layout, task), parameters, sums.of<A>(task));
      } else {
        kernels<S>().planes_backward(own_from, own_x, own_to, planes(layout, task), parameters, sums.of<A>(task));
      }
    });
    if (want_p1) {
      grad_p1 = total<A>(sums.p1, p1).to(p1.scalar_type());
    }
    if (want_p2) {
      grad_p2 = total<A>(sums.p2, p2).to(p2.scalar_type());
    }
    if (want_beta) {
      grad_beta = finite<A>(total<A>(sums.beta, beta)).to(beta.scalar_type());
    }
  });
  if (want_x && !input.is_same(in.x)) {
    grad_x = like(input).copy_(grad_x);
  }
  return {grad_x, grad_p1, grad_p2, grad_beta};
}

bool is_ours(const Tensor& t) {
  return !at::GradMode::is_enabled() && t.use_count() == 1 && !at::isTensorSubclassLike(t) &&
      t.storage().use_count() == 1;
}

Tensor channel_mean_cpu(const Tensor& input, int64_t dim) {
  const int64_t channel_dim = at::maybe_wrap_dim(dim, input.dim());
  const Tensor walked = walkable(input, channel_dim);
  const Layout layout(walked.sizes(), channel_dim, is_channels_last(walked, channel_dim), Units::grouped);
  const int64_t channels = layout.channels;
  const Tensor unit_sums =
      at::empty({layout.units * layout.chunks, channels}, walked.options().dtype(compute_type(walked)));
  Tensor mean;
  dispatch(walked, "mean", [&](auto element) {
    using S = decltype(element);
    using A = typename Compute<S>::type;
    const S* x = const_data<S>(walked);
    A* const sums = data<A>(unit_sums);
    for_each_task(layout, [&](const Task& task) {
      A* const own = sums + task.row_of_unit * channels + task.channel;
      if (layout.rows) {
        kernels<S>().rows_sum(x + task.offset, rows(layout, task), own, channels);
      } else {
        kernels<S>().planes_sum(x + task.offset, planes(layout, task), own, channels);
      }
    });
    mean = column_sums<A>(unit_sums, layout.samples, layout.blocks * layout.inner);
  });
  return mean;
}

// Adds `values`, (N, C), to all elements of their sample and channel. `x` must be walkable.
static void add_per_channel_(const Tensor& x, const Tensor& values, int64_t dim) {
  const int64_t channel_dim = at::maybe_wrap_dim(dim, x.dim());
  const Layout layout(x.sizes(), channel_dim, is_channels_last(x, channel_dim), Units::grouped);
  const Tensor wide = values.to(compute_type(x)).contiguous();
  dispatch(x, "add_per_channel_", [&](auto element) {
    using S = decltype(element);
    using A = typename Compute<S>::type;
    S* const to = data<S>(x);
    const A* const value = const_data<A>(wide);
    for_each_task(layout, [&](const Task& task) {
      const A* const own = value + task.sample * layout.channels + task.channel;
      if (layout.rows) {
        kernels<S>().add_to_rows(to + task.offset, rows(layout, task), own, layout.channels);
      } else {
        kernels<S>().add_to_planes(to + task.offset, planes(layout, task), own, layout.channels);
      }
    });
  });
}

Tensor with_gradient_of_mean(Tensor grad_x, const Tensor& grad_mean, int64_t channel_dim) {
  const int64_t area = grad_x.numel() / std::max<int64_t>(1, grad_mean.numel());
  const Tensor share = grad_mean / static_cast<double>(area);
  if (is_ours(grad_x) && (grad_x.is_contiguous() || is_channels_last(grad_x, channel_dim))) {
    add_per_channel_(grad_x, share, channel_dim);
    return grad_x;
  }
  std::vector<int64_t> shape(grad_x.dim(), 1);
  shape[0] = grad_x.size(0);
  shape[channel_dim] = grad_x.size(channel_dim);
  return (grad_x + share.reshape(shape)).to(grad_x.scalar_type());
}

} // namespace acon
