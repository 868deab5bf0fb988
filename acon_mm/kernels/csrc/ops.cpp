// The operators acon_mm::acon_c, acon_mm::acon_c_backward and acon_mm::input_and_mean on the CPU, with autograd.
// The kernels' mathematics is in kernels.cpp, how tensors are cut up in layout.h; this file ties both to PyTorch.
#include <ATen/ATen.h>
#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/TensorSubclassLikeUtils.h>
#include <ATen/Version.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include "kernels.h"
#include "layout.h"

namespace acon {
namespace {

using at::Tensor;
using Gradients = std::tuple<Tensor, Tensor, Tensor, Tensor>;

// As PyTorch's own kernels: the best that this processor has, or what ATEN_CPU_CAPABILITY says.
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

// Calls `f` with a value of the kernels' type for the elements of `x`.
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

at::ScalarType compute_type(const Tensor& x) {
  return x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
}

// A parameter of shape (C,), (N, C) or (N, 1) in the type that is computed in.
struct Prepared {
  Tensor tensor;
  int64_t sample_stride, channel_stride;

  Prepared(const Tensor& parameter, const Tensor& x, int64_t channel_dim)
      : tensor(parameter.detach().to(compute_type(x)).contiguous()) {
    const int64_t samples = x.size(0), channels = x.size(channel_dim), rank = tensor.dim();
    TORCH_CHECK(
        (rank == 1 && tensor.size(0) == channels) ||
            (rank == 2 && tensor.size(0) == samples && (tensor.size(1) == channels || tensor.size(1) == 1)),
        "a parameter of shape ", tensor.sizes(), " fits no input of shape ", x.sizes(),
        " whose channels lie at dimension ", channel_dim, ": it must be (C,), (N, C) or (N, 1)");
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

template <typename S>
S* data(const Tensor& t) {
  return static_cast<S*>(t.data_ptr());
}
template <typename S>
const S* const_data(const Tensor& t) {
  return static_cast<const S*>(t.const_data_ptr());
}

template <typename F>
void for_each_task(const Layout& layout, F f) {
  at::parallel_for(0, layout.tasks(), layout.grain(), [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      f(task);
    }
  });
}

// Adds what each chunk summed up, in the order of the chunks: (tasks, sums) of planes or (tasks, sums, C) of rows becomes
// (N, sums, C).
Tensor total(const Tensor& partial, const Layout& layout, int64_t sums) {
  const auto compute = partial.scalar_type();
  if (layout.rows) {
    return partial.view({layout.samples, layout.chunks, sums, layout.channels}).sum(1);
  }
  if (layout.chunks == 1 && layout.blocks == 1) {
    return partial.view({layout.samples, layout.channels, sums}).transpose(1, 2);
  }
  return partial.view({layout.samples, layout.blocks, layout.channels, layout.chunks, sums})
      .sum({1, 3}, false, compute)
      .transpose(1, 2);
}

Tensor acon_c_cpu(const Tensor& input, const Tensor& p1, const Tensor& p2, const Tensor& beta, int64_t channel_dim) {
  const Inputs in(input, p1, p2, beta, channel_dim);
  Tensor y = at::empty_like(in.x);
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
            *parameters.p2.at(task.sample, task.channel), *parameters.beta.at(task.sample, task.channel));
      }
    });
  });
  return input.is_same(in.x) ? y : like(input).copy_(y);
}

// Without infinities, as reference.finite.
Tensor finite(const Tensor& t) {
  const double limit = t.scalar_type() == at::kDouble ? std::numeric_limits<double>::max()
                                                      : std::numeric_limits<float>::max();
  return t.clamp(-limit, limit);
}

// (N, C) of sums in the shape and type of a parameter.
Tensor reduced(const Tensor& sums, const Tensor& parameter, bool bounded = false) {
  const Tensor result = parameter.dim() == 1 ? sums.sum(0) : sums.sum_to_size(parameter.sizes());
  return (bounded ? finite(result) : result).to(parameter.scalar_type());
}

Gradients acon_c_backward_cpu(
    const Tensor& grad_y, const Tensor& input, const Tensor& p1, const Tensor& p2, const Tensor& beta,
    int64_t channel_dim) {
  const Inputs in(input, p1, p2, beta, channel_dim);
  const Layout& layout = in.layout;
  const Tensor grad = ordered_as(grad_y, in.x);
  Tensor grad_x = at::empty_like(in.x);
  Tensor sums;
  dispatch(in.x, "acon_c_backward", [&](auto element) {
    using S = decltype(element);
    using A = typename Compute<S>::type;
    const auto parameters = in.parameters<A>();
    const S *x = const_data<S>(in.x), *from = const_data<S>(grad);
    S* to = data<S>(grad_x);
    const auto options = in.x.options().dtype(compute_type(in.x));
    const int64_t columns = layout.rows ? layout.channels : 1;
    const Tensor partial = layout.rows ? at::zeros({layout.tasks(), kSums, columns}, options)
                                       : at::empty({layout.tasks(), kSums}, options);
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
    sums = total(partial, layout, kSums);
  });
  return {
      input.is_same(in.x) ? grad_x : like(input).copy_(grad_x), reduced(sums.select(1, 0), p1),
      reduced(sums.select(1, 1), p2), reduced(sums.select(1, 2), beta, true)};
}

// The mean of each sample and channel, (N, C), in the type that is computed in.
Tensor channel_mean_cpu(const Tensor& input, int64_t dim) {
  const int64_t channel_dim = at::maybe_wrap_dim(dim, input.dim());
  const Tensor walked = walkable(input, channel_dim);
  const Layout layout(walked.sizes(), channel_dim, is_channels_last(walked, channel_dim));
  Tensor sums;
  dispatch(walked, "mean", [&](auto element) {
    using S = decltype(element);
    using A = typename Compute<S>::type;
    const S* x = const_data<S>(walked);
    const int64_t columns = layout.rows ? layout.channels : 1;
    const Tensor partial = at::zeros({layout.tasks(), 1, columns}, walked.options().dtype(compute_type(walked)));
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
    sums = total(partial, layout, 1);
  });
  return sums.select(1, 0) / static_cast<double>(layout.blocks * layout.inner);
}

// Adds one value per sample and channel, (N, C), to all that it stands for; `x` must be walkable.
void add_per_channel_(const Tensor& x, const Tensor& values, int64_t dim) {
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

// What the kernels return, without the values: for torch.compile.
Tensor acon_c_meta(const Tensor& x, const Tensor&, const Tensor&, const Tensor&, int64_t) {
  return like(x);
}
Gradients acon_c_backward_meta(
    const Tensor&, const Tensor& x, const Tensor& p1, const Tensor& p2, const Tensor& beta, int64_t) {
  const auto contiguous = [](const Tensor& t) { return at::empty_like(t, at::MemoryFormat::Contiguous); };
  return {like(x), contiguous(p1), contiguous(p2), contiguous(beta)};
}

Tensor channel_mean_meta(const Tensor& x, int64_t channel_dim) {
  return at::empty_symint(
      {x.sym_size(0), x.sym_size(channel_dim)}, x.options().dtype(compute_type(x)));
}

Tensor call_acon_c(const Tensor& x, const Tensor& p1, const Tensor& p2, const Tensor& beta, int64_t channel_dim) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("acon_mm::acon_c", "")
                             .typed<decltype(acon_c_cpu)>();
  return op.call(x, p1, p2, beta, channel_dim);
}
Tensor call_channel_mean(const Tensor& x, int64_t channel_dim) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("acon_mm::channel_mean", "")
                             .typed<decltype(channel_mean_cpu)>();
  return op.call(x, channel_dim);
}
Gradients call_acon_c_backward(
    const Tensor& grad_y, const Tensor& x, const Tensor& p1, const Tensor& p2, const Tensor& beta,
    int64_t channel_dim) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("acon_mm::acon_c_backward", "")
                             .typed<decltype(acon_c_backward_cpu)>();
  return op.call(grad_y, x, p1, p2, beta, channel_dim);
}

// A (C,), (N, C) or (N, 1) tensor as one that broadcasts against x.
Tensor aligned(const Tensor& parameter, const Tensor& x, int64_t channel_dim) {
  c10::SymDimVector shape(x.dim(), 1);
  shape[channel_dim] = parameter.sym_size(-1);
  if (parameter.dim() == 2) {
    shape[0] = parameter.sym_size(0);
  }
  return parameter.reshape_symint(shape);
}

// The gradients out of PyTorch's operators, for double backward; kernels/reference.py has the same.
Gradients composed_backward(
    const Tensor& grad_y, const Tensor& input, const Tensor& parameter1, const Tensor& parameter2,
    const Tensor& parameter3, int64_t dim) {
  const int64_t channel_dim = at::maybe_wrap_dim(dim, input.dim());
  const auto compute = compute_type(input);
  const Tensor x = input.to(compute), grad = grad_y.to(compute);
  const Tensor p1 = aligned(parameter1, x, channel_dim).to(compute);
  const Tensor p2 = aligned(parameter2, x, channel_dim).to(compute);
  const Tensor beta = aligned(parameter3, x, channel_dim).to(compute);
  const Tensor width = p1 - p2;
  const Tensor z = (beta * width * x).clamp(-1e3, 1e3);
  const Tensor s = z.sigmoid();
  const Tensor slope = s * (-z).sigmoid(), h = s + z * slope;
  const Tensor weighted = grad * x, weighted_h = weighted * h;
  const auto reduce = [](const Tensor& summands, const Tensor& like, const Tensor& parameter, bool bounded = false) {
    const Tensor sum = summands.sum_to_size(like.sizes());
    return (bounded ? finite(sum) : sum).reshape_symint(parameter.sym_sizes()).to(parameter.scalar_type());
  };
  return {
      (grad * (width * h + p2)).to(input.scalar_type()), reduce(weighted_h, p1, parameter1),
      reduce(weighted - weighted_h, p2, parameter2),
      reduce(finite(weighted * slope * x) * width.square(), beta, parameter3, true)};
}

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct AconCFunction : torch::autograd::Function<AconCFunction> {
  static constexpr bool is_traceable = true;

  static Tensor forward(
      AutogradContext* context, const Tensor& x, const Tensor& p1, const Tensor& p2, const Tensor& beta,
      int64_t channel_dim) {
    at::AutoDispatchBelowADInplaceOrView below;
    context->save_for_backward({x, p1, p2, beta});
    context->saved_data["channel_dim"] = channel_dim;
    return call_acon_c(x, p1, p2, beta, channel_dim);
  }

  static variable_list backward(AutogradContext* context, variable_list grads) {
    const auto saved = context->get_saved_variables();
    const int64_t channel_dim = context->saved_data["channel_dim"].toInt();
    auto [x, p1, p2, beta] = call_acon_c_backward(grads[0], saved[0], saved[1], saved[2], saved[3], channel_dim);
    return {std::move(x), std::move(p1), std::move(p2), std::move(beta), Tensor()};
  }
};

Gradients acon_c_backward_autograd(
    const Tensor& grad_y, const Tensor& x, const Tensor& p1, const Tensor& p2, const Tensor& beta,
    int64_t channel_dim) {
  // With create_graph the gradient is differentiated itself, so it must be made of PyTorch's operators.
  if (at::GradMode::is_enabled()) {
    return composed_backward(grad_y, x, p1, p2, beta, channel_dim);
  }
  at::AutoDispatchBelowADInplaceOrView below;
  return call_acon_c_backward(grad_y, x, p1, p2, beta, channel_dim);
}

// x again, and its mean. As both leave one node of the graph, its backward has both gradients in hand and adds the
// mean's to the other in place; two nodes would make autograd add them in a new tensor of the size of x.
struct InputAndMean : torch::autograd::Function<InputAndMean> {
  static variable_list forward(AutogradContext* context, const Tensor& x, int64_t channel_dim) {
    at::AutoDispatchBelowADInplaceOrView below;
    context->set_materialize_grads(false);
    context->saved_data["channel_dim"] = channel_dim;
    context->saved_data["sizes"] = x.sizes();
    return {x, call_channel_mean(x, channel_dim)};
  }

  static variable_list backward(AutogradContext* context, variable_list grads) {
    Tensor grad_x = std::move(grads[0]);
    const Tensor& grad_mean = grads[1];
    if (!grad_mean.defined()) {
      return {grad_x, Tensor()};
    }
    const auto sizes = context->saved_data["sizes"].toIntVector();
    const int64_t rank = static_cast<int64_t>(sizes.size());
    const int64_t channel_dim = at::maybe_wrap_dim(context->saved_data["channel_dim"].toInt(), rank);
    const int64_t area = c10::multiply_integers(sizes) / std::max<int64_t>(1, sizes[0] * sizes[channel_dim]);
    const Tensor share = grad_mean / static_cast<double>(area);
    // Nobody else may see the tensor change: neither through the tensor, nor through a view of it, nor in a graph.
    const bool ours = grad_x.defined() && !at::GradMode::is_enabled() && grad_x.use_count() == 1 &&
        !at::isTensorSubclassLike(grad_x) && grad_x.storage().use_count() == 1 &&
        (grad_x.is_contiguous() || is_channels_last(grad_x, channel_dim));
    if (ours) {
      add_per_channel_(grad_x, share, channel_dim);
      return {std::move(grad_x), Tensor()};
    }
    std::vector<int64_t> shape(rank, 1);
    shape[0] = sizes[0];
    shape[channel_dim] = sizes[channel_dim];
    const Tensor spread = share.reshape(shape);
    return {grad_x.defined() ? (grad_x + spread).to(grad_x.scalar_type()) : spread.expand(sizes), Tensor()};
  }
};

std::tuple<Tensor, Tensor> input_and_mean(const Tensor& x, int64_t channel_dim) {
  auto both = InputAndMean::apply(x, channel_dim);
  return {std::move(both[0]), std::move(both[1])};
}

std::string cpu_kernels() {
  return table().name;
}

} // namespace

TORCH_LIBRARY(acon_mm, m) {
  m.def(
      "acon_c(Tensor x, Tensor p1, Tensor p2, Tensor beta, int channel_dim=1) -> Tensor",
      {at::Tag::pt2_compliant_tag});
  m.def(
      "acon_c_backward(Tensor grad_y, Tensor x, Tensor p1, Tensor p2, Tensor beta, int channel_dim=1) "
      "-> (Tensor grad_x, Tensor grad_p1, Tensor grad_p2, Tensor grad_beta)",
      {at::Tag::pt2_compliant_tag});
  m.def("channel_mean(Tensor x, int channel_dim=1) -> Tensor", {at::Tag::pt2_compliant_tag});
  // Returns an alias of its input, which operators under torch.compile must not; the module takes another way there.
  m.def("input_and_mean(Tensor(a) x, int channel_dim=1) -> (Tensor(a) x, Tensor mean)", &input_and_mean);
  m.def("cpu_kernels() -> str", &cpu_kernels);
}

TORCH_LIBRARY_IMPL(acon_mm, CPU, m) {
  m.impl("acon_c", &acon_c_cpu);
  m.impl("acon_c_backward", &acon_c_backward_cpu);
  m.impl("channel_mean", &channel_mean_cpu);
}

TORCH_LIBRARY_IMPL(acon_mm, Meta, m) {
  m.impl("acon_c", &acon_c_meta);
  m.impl("acon_c_backward", &acon_c_backward_meta);
  m.impl("channel_mean", &channel_mean_meta);
}

TORCH_LIBRARY_IMPL(acon_mm, Autograd, m) {
  m.impl("acon_c", [](const Tensor& x, const Tensor& p1, const Tensor& p2, const Tensor& beta, int64_t channel_dim) {
    return AconCFunction::apply(x, p1, p2, beta, channel_dim);
  });
  m.impl("acon_c_backward", &acon_c_backward_autograd);
}

} // namespace acon
