// What the functions on a CPU share: the choice of kernels, parameters as they take them, tasks, and the sums of tasks.
#pragma once

#include <ATen/Parallel.h>
#include <numeric>

#include "cpu.h"
#include "kernels.h"
#include "layout.h"

namespace acon {

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

inline Units task_units(const Prepared& p1, const Prepared& p2, const Prepared& beta) {
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

inline Planes planes(const Layout& layout, const Task& task) {
  return {task.units, task.channels, task.count, layout.channels * layout.inner, task.sample, task.channel};
}

inline Rows rows(const Layout& layout, const Task& task) {
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

// The sums of a backward pass, one row for each task; of beta, one for each sample where beta has one there.
struct TaskSums {
  int64_t channels;
  bool beta_by_unit;
  Tensor p1, p2, beta, z, z_u;

  TaskSums(const Inputs& in, bool wanted, bool with_norm)
      : channels(in.layout.channels), beta_by_unit(in.beta.by_sample() && in.layout.group > 1) {
    if (!wanted) {
      return;
    }
    const auto options = in.x.options().dtype(compute_type(in.x));
    const int64_t rows = in.layout.groups * in.layout.chunks;
    const auto sums = [&](int64_t count) { return at::empty({count, channels}, options); };
    p1 = sums(rows), p2 = sums(rows), beta = sums(beta_by_unit ? in.layout.units * in.layout.chunks : rows);
    if (with_norm) {
      z = sums(rows), z_u = sums(rows);
    }
  }

  template <typename A>
  SumsTo<A> of(const Task& task) const {
    const auto at = [&](const Tensor& sums, int64_t row) {
      return sums.defined() ? data<A>(sums) + row * channels + task.channel : nullptr;
    };
    return {at(p1, task.row),
            at(p2, task.row),
            at(beta, beta_by_unit ? task.row_of_unit : task.row),
            beta_by_unit ? channels : 0,
            at(z, task.row),
            at(z_u, task.row)};
  }
};

} // namespace acon
