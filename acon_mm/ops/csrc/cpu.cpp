// ACON-C and the mean on a CPU, without autograd. Tensors are cut into tasks (layout.h), which the loops of plane_loops.h
// and row_loops.h compute.
#include "cpu.h"

#include <ATen/Parallel.h>
#include <ATen/TensorSubclassLikeUtils.h>
#include <ATen/core/grad_mode.h>
#include <numeric>

#include "kernels.h"
#include "layout.h"

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

  Prepared(const Tensor& parameter, const Tensor& x)
      : tensor(parameter.to(compute_type(x)).contiguous()),
        sample_stride(tensor.dim() == 1 ? 0 : tensor.size(1)),
        channel_stride(tensor.size(-1) == 1 ? 0 : 1) {}

  bool by_sample() const {
    return sample_stride != 0;
  }

  template <typename A>
  Parameter<A> as() const {
    return {const_data<A>(tensor), sample_stride, channel_stride};
  }
};

Units task_units(const Prepared& p1, const Prepared& p2, const Prepared& beta) {
  return p1.by_sample() || p2.by_sample() ? Units::single : beta.by_sample() ? Units::grouped : Units::merged;
}

struct Inputs {
  int64_t channel_dim;
  Tensor x;
  Prepared p1, p2, beta;
  Layout layout;

  Inputs(const Tensor& input, const Tensor& p1, const Tensor& p2, const Tensor& beta, int64_t dim)
      : channel_dim(dim),
        x(walkable(input, channel_dim)),
        p1(p1, x),
        p2(p2, x),
        beta(beta, x),
        layout(
            x.sizes(), channel_dim, is_channels_last(x, channel_dim),
            task_units(this->p1, this->p2, this->beta)) {}

  template <typename A>
  Parameters<A> parameters() const {
    return {p1.as<A>(), p2.as<A>(), beta.as<A>()};
  }
};

template <typename F>
void for_each_task(const Layout& layout, F f) {
  at::parallel_for(0, layout.tasks(), layout.grain(), [&](int64_t begin, int64_t end) {
    for (int64_t index = begin; index < end; ++index) {
      f(Task(layout, index));
    }
  });
}

Planes planes(const Layout& layout, const Task& task) {
  return {task.units, task.channels, task.count, layout.channels * layout.inner, task.sample, task.channel};
}

Rows rows(const Layout& layout, const Task& task) {
  return {task.units, task.count, layout.channels, task.sample};
}

// The sums of the columns of each of `groups` groups of rows of `from`, (groups, C), divided by `divisor`. Rows are
// added in their order.
template <typename A>
Tensor column_sums(const Tensor& from, int64_t groups, A divisor) {
  const int64_t channels = from.size(1), rows = groups == 0 ? 0 : from.size(0) / groups;
  if (rows == 1 && divisor == 1) {
    return from;
  }
  Tensor result = at::zeros({groups, channels}, from.options());
  constexpr int64_t most = 1024; // columns of a task
  const int64_t parts = divided_up(channels, most);
  const int64_t elements = rows * std::min(channels, most);
  const int64_t grain = std::max<int64_t>(1, Layout::kFewElements / std::max<int64_t>(1, elements));
  at::parallel_for(0, groups * parts, grain, [&](int64_t begin, int64_t end) {
    for (int64_t index = begin; index < end; ++index) {
      const int64_t group = index / parts, first = index % parts * most, count = std::min(most, channels - first);
      const A* row = const_data<A>(from) + group * rows * channels + first;
      A* const to = data<A>(result) + group * channels + first;
      for (int64_t i = 0; i < rows; ++i, row += channels) {
        for (int64_t c = 0; c < count; ++c) {
          to[c] += row[c];
        }
      }
      for (int64_t c = 0; c < count; ++c) {
        to[c] /= divisor;
      }
    }
  });
  return result;
}

// The gradient of a parameter, (C,), (N, C) or (N, 1), from the sums of the tasks, (rows, C). Where the parameter has a
// dimension of samples, each sample has the same number of rows.
template <typename A>
Tensor total(const Tensor& task_sums, const Tensor& parameter) {
  Tensor result = column_sums<A>(task_sums, parameter.dim() == 1 ? 1 : parameter.size(0), 1);
  if (parameter.numel() != result.numel()) { // (N, 1)
    const int64_t channels = result.size(1);
    Tensor sums = at::empty({result.size(0)}, result.options());
    at::parallel_for(0, sums.numel(), Layout::kFewElements / channels + 1, [&](int64_t begin, int64_t end) {
      for (int64_t sample = begin; sample < end; ++sample) {
        const A* const from = const_data<A>(result) + sample * channels;
        data<A>(sums)[sample] = std::accumulate(from, from + channels, A(0));
      }
    });
    result = sums;
  }
  return result.view(parameter.sizes());
}

// `gradient` without infinities, see `finite` in ops/reference.py.
template <typename A>
Tensor finite(const Tensor& gradient) {
  constexpr A largest = std::numeric_limits<A>::max();
  A* const value = data<A>(gradient);
  at::parallel_for(0, gradient.numel(), Layout::kFewElements, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      value[i] = value[i] > largest ? largest : value[i] < -largest ? -largest : value[i];
    }
  });
  return gradient;
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
    for_each_task(in.layout, [&](const Task& task) {
      if (in.layout.rows) {
        kernels<S>().rows_forward(x + task.offset, to + task.offset, rows(in.layout, task), parameters);
      } else {
        kernels<S>().planes_forward(x + task.offset, to + task.offset, planes(in.layout, task), parameters, past_cache);
      }
    });
  });
  return input.is_same(in.x) ? y : like(input).copy_(y);
}

Gradients acon_c_backward_cpu(
    const Tensor& grad_y, const Tensor& input, const Tensor& p1, const Tensor& p2, const Tensor& beta,
    int64_t channel_dim, std::array<bool, 4> output_mask) {
  const auto [want_x, want_p1, want_p2, want_beta] = output_mask;
  const Inputs in(input, p1, p2, beta, channel_dim);
  const Layout& layout = in.layout;
  const Tensor grad = ordered_as(grad_y, in.x);
  Tensor grad_x, grad_p1, grad_p2, grad_beta;
  if (want_x) {
    grad_x = at::empty_like(in.x);
  }
  // One row for each task, where beta has no dimension of samples, or each task has one sample.
  const bool beta_by_unit = in.beta.by_sample() && layout.group > 1;
  Tensor p1_sums, p2_sums, beta_sums;
  if (want_p1 || want_p2 || want_beta) {
    const auto options = in.x.options().dtype(compute_type(in.x));
    const int64_t task_rows = layout.groups * layout.chunks;
    p1_sums = at::empty({task_rows, layout.channels}, options);
    p2_sums = at::empty({task_rows, layout.channels}, options);
    beta_sums = at::empty({beta_by_unit ? layout.units * layout.chunks : task_rows, layout.channels}, options);
  }
  dispatch(in.x, "acon_c_backward", [&](auto element) {
    using S = decltype(element);
    using A = typename Compute<S>::type;
    const auto parameters = in.parameters<A>();
    const S *x = const_data<S>(in.x), *from = const_data<S>(grad);
    S* const to = data<S>(grad_x);
    const SumsTo<A> sums = {data<A>(p1_sums), data<A>(p2_sums), data<A>(beta_sums), beta_by_unit ? layout.channels : 0};
    for_each_task(layout, [&](const Task& task) {
      SumsTo<A> own = sums;
      if (own.p1) {
        const int64_t at = task.row * layout.channels + task.channel;
        own.p1 += at, own.p2 += at;
        own.beta += beta_by_unit ? task.row_of_unit * layout.channels + task.channel : at;
      }
      const S *const own_x = x + task.offset, *const own_from = from + task.offset;
      S* const own_to = to ? to + task.offset : nullptr;
      if (layout.rows) {
        kernels<S>().rows_backward(own_from, own_x, own_to, rows(layout, task), parameters, own);
      } else {
        kernels<S>().planes_backward(own_from, own_x, own_to, planes(layout, task), parameters, own);
      }
    });
    if (want_p1) {
      grad_p1 = total<A>(p1_sums, p1).to(p1.scalar_type());
    }
    if (want_p2) {
      grad_p2 = total<A>(p2_sums, p2).to(p2.scalar_type());
    }
    if (want_beta) {
      grad_beta = finite<A>(total<A>(beta_sums, beta)).to(beta.scalar_type());
    }
  });
  if (want_x && !input.is_same(in.x)) {
    grad_x = like(input).copy_(grad_x);
  }
  return {grad_x, grad_p1, grad_p2, grad_beta};
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
