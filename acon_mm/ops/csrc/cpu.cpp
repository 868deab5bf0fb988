// ACON-C and the mean on a CPU, without autograd. Tensors are cut into chunks (layout.h); the loops of kernels.cpp
// compute a chunk.
#include "cpu.h"

#include <ATen/Parallel.h>
#include <ATen/TensorSubclassLikeUtils.h>
#include <ATen/Version.h>
#include <ATen/core/grad_mode.h>

#include "kernels.h"
#include "layout.h"

namespace acon {

// As PyTorch's own kernels choose.
const Table& table() {
  static const Table& chosen = []() -> const Table& {
#if defined(ACON_X86)
    const std::string capability = at::get_cpu_capability();
    if (capability == "AVX512") {
      return avx512_table;
    }
    if (capability == "AVX2") {
      return avx2_table;
    }
#endif
    return baseline_table;
  }();
  return chosen;
}

namespace {

template <typename S>
const Kernels<S>& kernels() {
  if constexpr (std::is_same_v<S, float>) {
    return table().float32;
  } else if constexpr (std::is_same_v<S, double>) {
    return table().float64;
  } else if constexpr (std::is_same_v<S, BFloat16>) {
    return table().bfloat16;
  } else {
    return table().float16;
  }
}

// Calls `f` with a value of the kernels' type for the dtype of `x`.
template <typename F>
void dispatch(const Tensor& x, const char* name, F f) {
  switch (x.scalar_type()) {
    case at::kFloat:
      return f(float());
    case at::kDouble:
      return f(double());
    case at::kBFloat16:
      return f(BFloat16());
    case at::kHalf:
      return f(Float16());
    default:
      TORCH_CHECK(false, name, " takes float32, float64, bfloat16 and float16, got ", x.scalar_type());
  }
}

// A parameter of shape (C,), (N, C) or (N, 1), in the compute type.
struct Prepared {
  Tensor tensor;
  int64_t sample_stride, channel_stride;

  Prepared(const Tensor& parameter, const Tensor& x, int64_t channel_dim)
      : tensor(parameter.detach().to(compute_type(x)).contiguous()) {
    const int64_t samples = x.size(0), channels = x.size(channel_dim), rank = tensor.dim();
    TORCH_CHECK(
        (rank == 1 && tensor.size(0) == channels) ||
            (rank == 2 && tensor.size(0) == samples && (tensor.size(1) == channels || tensor.size(1) == 1)),
        "a parameter of shape ", tensor.sizes(), " does not fit an input of shape ", x.sizes(),
        " with channels at dimension ", channel_dim, ": it must be (C,), (N, C) or (N, 1)");
    sample_stride = rank == 1 ? 0 : tensor.size(1);
    channel_stride = tensor.size(-1) == 1 ? 0 : 1;
  }

  template <typename A>
  Parameter<A> as() const {
    return {tensor.const_data_ptr<A>(), sample_stride, channel_stride};
  }
};

struct Inputs {
  int64_t channel_dim;
  Tensor x;
  Prepared p1, p2, beta;
  Layout layout;

  Inputs(const Tensor& input, const Tensor& p1, const Tensor& p2, const Tensor& beta, int64_t dim)
      : channel_dim(at::maybe_wrap_dim(dim, input.dim())),
        x(walkable(input, channel_dim)),
        p1(p1, x, channel_dim),
        p2(p2, x, channel_dim),
        beta(beta, x, channel_dim),
        layout(x.sizes(), channel_dim, is_channels_last(x, channel_dim)) {
    TORCH_CHECK(input.dim() >= 2 && channel_dim > 0, "acon_c takes (N, ..., C, ...), got ", input.sizes());
  }

  template <typename A>
  Parameters<A> parameters() const {
    return {p1.as<A>(), p2.as<A>(), beta.as<A>()};
  }
};

template <typename F>
void for_each_task(const Layout& layout, F f) {
  at::parallel_for(0, layout.tasks(), layout.grain(), [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      f(task);
    }
  });
}

// Adds the `count` sums of all chunks, in the order of the chunks. `partial` is (tasks, count) of planes or (tasks,
// count, C) of rows; the result is (N, count, C). The tensors are small: calling PyTorch's operators would take longer
// than these loops.
template <typename A>
Tensor total(const Tensor& partial, const Layout& layout, int64_t count) {
  const int64_t channels = layout.channels, size = count * channels;
  Tensor result = at::zeros({layout.samples, count, channels}, partial.options());
  const A* from = const_data<A>(partial);
  A* to = data<A>(result);
  for (int64_t sample = 0; sample < layout.samples; ++sample, to += size) {
    if (layout.rows) {
      for (int64_t chunk = 0; chunk < layout.chunks; ++chunk, from += size) {
        for (int64_t i = 0; i < size; ++i) {
          to[i] += from[i];
        }
      }
      continue;
    }
    for (int64_t block = 0; block < layout.blocks; ++block) {
      for (int64_t channel = 0; channel < channels; ++channel) {
        for (int64_t chunk = 0; chunk < layout.chunks; ++chunk, from += count) {
          for (int64_t i = 0; i < count; ++i) {
            to[i * channels + channel] += from[i];
          }
        }
      }
    }
  }
  return result;
}

// The gradient of a parameter, (C,), (N, C) or (N, 1), from its sum `which` among the sums (N, kSums, C).
template <typename A>
Tensor reduced(const Tensor& sums, Sum which, const Tensor& parameter) {
  const int64_t samples = sums.size(0), channels = sums.size(2);
  Tensor result = at::zeros(parameter.sizes(), sums.options());
  const int64_t sample_stride = parameter.dim() == 1 ? 0 : parameter.size(1);
  const int64_t channel_stride = parameter.size(-1) == channels ? 1 : 0;
  A* to = data<A>(result);
  for (int64_t sample = 0; sample < samples; ++sample) {
    const A* from = const_data<A>(sums) + (sample * kSums + which) * channels;
    for (int64_t channel = 0; channel < channels; ++channel) {
      to[sample * sample_stride + channel * channel_stride] += from[channel];
    }
  }
  if (which == kBetaSum) { // without infinities, see `finite` in ops/reference.py
    constexpr A largest = std::numeric_limits<A>::max();
    for (int64_t i = 0; i < result.numel(); ++i) {
      to[i] = to[i] > largest ? largest : to[i] < -largest ? -largest : to[i];
    }
  }
  return result.to(parameter.scalar_type());
}

// A result of this many bytes would not stay in the cache, so it is written without it.
constexpr int64_t kPastCache = 16 << 20;

} // namespace

Tensor acon_c_cpu(const Tensor& input, const Tensor& p1, const Tensor& p2, const Tensor& beta, int64_t channel_dim) {
  const Inputs in(input, p1, p2, beta, channel_dim);
  Tensor y = at::empty_like(in.x);
  const bool past_cache = static_cast<int64_t>(y.nbytes()) >= kPastCache;
  dispatch(in.x, "acon_c", [&](auto element) {
    using S = decltype(element);
    using A = typename Compute<S>::type;
    const auto parameters = in.parameters<A>();
    const S* x = const_data<S>(in.x);
    S* to = data<S>(y);
    for_each_task(in.layout, [&](int64_t index) {
      if (in.layout.rows) {
        const RowTask task(in.layout, index);
        kernels<S>().rows_forward(
            x + task.offset, to + task.offset, task.count, in.layout.channels, task.sample, parameters);
      } else {
        const PlaneTask task(in.layout, index);
        kernels<S>().plane_forward(
            x + task.offset, to + task.offset, task.count, *parameters.p1.at(task.sample, task.channel),
            *parameters.p2.at(task.sample, task.channel), *parameters.beta.at(task.sample, task.channel), past_cache);
      }
    });
  });
  return input.is_same(in.x) ? y : like(input).copy_(y);
}

Gradients acon_c_backward_cpu(
    const Tensor& grad_y, const Tensor& input, const Tensor& p1, const Tensor& p2, const Tensor& beta,
    int64_t channel_dim) {
  const Inputs in(input, p1, p2, beta, channel_dim);
  const Layout& layout = in.layout;
  const Tensor grad = ordered_as(grad_y, in.x);
  Tensor grad_x = at::empty_like(in.x), grad_p1, grad_p2, grad_beta;
  dispatch(in.x, "acon_c_backward", [&](auto element) {
    using S = decltype(element);
    using A = typename Compute<S>::type;
    const auto parameters = in.parameters<A>();
    const S *x = const_data<S>(in.x), *from = const_data<S>(grad);
    S* to = data<S>(grad_x);
    const auto options = in.x.options().dtype(compute_type(in.x));
    const int64_t columns = layout.rows ? layout.channels : 1;
    const Tensor partial = at::empty({layout.tasks(), kSums, columns}, options);
    A* const chunk_sums = data<A>(partial);
    for_each_task(layout, [&](int64_t index) {
      A* const own = chunk_sums + index * kSums * columns;
      if (layout.rows) {
        const RowTask task(layout, index);
        kernels<S>().rows_backward(
            from + task.offset, x + task.offset, to + task.offset, task.count, columns, task.sample, parameters, own);
      } else {
        const PlaneTask task(layout, index);
        kernels<S>().plane_backward(
            from + task.offset, x + task.offset, to + task.offset, task.count,
            *parameters.p1.at(task.sample, task.channel), *parameters.p2.at(task.sample, task.channel),
            *parameters.beta.at(task.sample, task.channel), own);
      }
    });
    const Tensor sums = total<A>(partial, layout, kSums);
    grad_p1 = reduced<A>(sums, kP1Sum, p1);
    grad_p2 = reduced<A>(sums, kP2Sum, p2);
    grad_beta = reduced<A>(sums, kBetaSum, beta);
  });
  return {input.is_same(in.x) ? grad_x : like(input).copy_(grad_x), grad_p1, grad_p2, grad_beta};
}

Tensor channel_mean_cpu(const Tensor& input, int64_t dim) {
  const int64_t channel_dim = at::maybe_wrap_dim(dim, input.dim());
  const Tensor walked = walkable(input, channel_dim);
  const Layout layout(walked.sizes(), channel_dim, is_channels_last(walked, channel_dim));
  Tensor mean;
  dispatch(walked, "mean", [&](auto element) {
    using S = decltype(element);
    using A = typename Compute<S>::type;
    const S* x = const_data<S>(walked);
    const int64_t columns = layout.rows ? layout.channels : 1;
    const Tensor partial = at::empty({layout.tasks(), 1, columns}, walked.options().dtype(compute_type(walked)));
    A* const chunk_sums = data<A>(partial);
    for_each_task(layout, [&](int64_t index) {
      if (layout.rows) {
        const RowTask task(layout, index);
        kernels<S>().rows_sum(x + task.offset, task.count, columns, chunk_sums + index * columns);
      } else {
        const PlaneTask task(layout, index);
        chunk_sums[index] = kernels<S>().plane_sum(x + task.offset, task.count);
      }
    });
    mean = total<A>(partial, layout, 1).squeeze_(1);
    const A area = layout.blocks * layout.inner;
    A* const to = data<A>(mean);
    for (int64_t i = 0; i < mean.numel(); ++i) {
      to[i] /= area;
    }
  });
  return mean;
}

// Adds `values`, (N, C), to all elements of their sample and channel. `x` must be walkable.
static void add_per_channel_(const Tensor& x, const Tensor& values, int64_t dim) {
  const int64_t channel_dim = at::maybe_wrap_dim(dim, x.dim());
  const Layout layout(x.sizes(), channel_dim, is_channels_last(x, channel_dim));
  const Tensor wide = values.to(compute_type(x)).contiguous();
  dispatch(x, "add_per_channel_", [&](auto element) {
    using S = decltype(element);
    using A = typename Compute<S>::type;
    S* const to = data<S>(x);
    const A* const value = const_data<A>(wide);
    for_each_task(layout, [&](int64_t index) {
      if (layout.rows) {
        const RowTask task(layout, index);
        kernels<S>().add_to_rows(
            to + task.offset, task.count, layout.channels, value + task.sample * layout.channels);
      } else {
        const PlaneTask task(layout, index);
        kernels<S>().add_to_plane(
            to + task.offset, task.count, value[task.sample * layout.channels + task.channel]);
      }
    });
  });
}

Tensor with_gradient_of_mean(Tensor grad_x, const Tensor& grad_mean, int64_t channel_dim) {
  const int64_t area = grad_x.numel() / std::max<int64_t>(1, grad_mean.numel());
  const Tensor share = grad_mean / static_cast<double>(area);
  // Nobody else has the tensor or a view of it, and no graph records it.
  const bool ours = !at::GradMode::is_enabled() && grad_x.use_count() == 1 && !at::isTensorSubclassLike(grad_x) &&
      grad_x.storage().use_count() == 1 && (grad_x.is_contiguous() || is_channels_last(grad_x, channel_dim));
  if (ours) {
    add_per_channel_(grad_x, share, channel_dim);
    return grad_x;
  }
  std::vector<int64_t> shape(grad_x.dim(), 1);
  shape[0] = grad_x.size(0);
  shape[channel_dim] = grad_x.size(channel_dim);
  return (grad_x + share.reshape(shape)).to(grad_x.scalar_type());
}

} // namespace acon
