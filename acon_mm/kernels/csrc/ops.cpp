// The operators acon_mm::acon_c, acon_mm::generator_layer and acon_mm::input_and_mean, with autograd, for PyTorch.
// What they compute is in cpu.cpp.
#include <ATen/ATen.h>
#include <ATen/TensorSubclassLikeUtils.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include "cpu.h"
#include "layout.h"

namespace acon {
namespace {

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

OutputsOfLayer generator_layer_meta(
    const Tensor& x, const Tensor& weight, const Tensor&, const MaybeTensor& norm_weight, const MaybeTensor&,
    const MaybeTensor&, const MaybeTensor&, bool batch_statistics, double, double) {
  const auto empty = [&](bool exists, c10::SymDimVector sizes) {
    return at::empty_symint(exists ? sizes : c10::SymDimVector{0}, x.options());
  };
  const bool has_norm = norm_weight.has_value();
  const auto samples = x.sym_size(0), out = weight.sym_size(0);
  return {
      empty(true, {samples, out}), empty(has_norm, {samples, out}), empty(has_norm, {out}), empty(has_norm, {out}),
      empty(has_norm && batch_statistics, {out})};
}
GradientsOfLayer generator_layer_backward_meta(
    const Tensor&, const Tensor& x, const Tensor& weight, const Tensor&, const MaybeTensor& norm_weight,
    const MaybeTensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&, bool, double, double) {
  const auto empty = [&](c10::SymIntArrayRef sizes) { return at::empty_symint(sizes, x.options()); };
  const c10::SymInt out = weight.sym_size(0), normed = norm_weight ? out : c10::SymInt(0);
  return {empty(x.sym_sizes()), empty(weight.sym_sizes()), empty({out}), empty({normed}), empty({normed})};
}

OutputsOfLayer call_generator_layer(
    const Tensor& x, const Tensor& weight, const Tensor& bias, const MaybeTensor& norm_weight,
    const MaybeTensor& norm_bias, const MaybeTensor& running_mean, const MaybeTensor& running_var,
    bool batch_statistics, double eps, double sigmoid_scale) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("acon_mm::generator_layer", "")
                             .typed<decltype(generator_layer_cpu)>();
  return op.call(
      x, weight, bias, norm_weight, norm_bias, running_mean, running_var, batch_statistics, eps, sigmoid_scale);
}
GradientsOfLayer call_generator_layer_backward(
    const Tensor& grad_y, const Tensor& x, const Tensor& weight, const Tensor& bias, const MaybeTensor& norm_weight,
    const MaybeTensor& norm_bias, const Tensor& y, const Tensor& z, const Tensor& mean, const Tensor& rstd,
    bool batch_statistics, double eps, double sigmoid_scale) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("acon_mm::generator_layer_backward", "")
                             .typed<decltype(generator_layer_backward_cpu)>();
  return op.call(
      grad_y, x, weight, bias, norm_weight, norm_bias, y, z, mean, rstd, batch_statistics, eps, sigmoid_scale);
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

// Without infinities, as reference.finite.
Tensor finite(const Tensor& t) {
  const double limit = t.scalar_type() == at::kDouble ? std::numeric_limits<double>::max()
                                                      : std::numeric_limits<float>::max();
  return t.clamp(-limit, limit);
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

// The gradients of a layer of the generator out of PyTorch's operators, for double backward. Running statistics are
// constants, those of the batch functions of x.
GradientsOfLayer composed_layer_backward(
    const Tensor& grad_y, const Tensor& x, const Tensor& weight, const Tensor& bias, const MaybeTensor& norm_weight,
    const MaybeTensor& norm_bias, const Tensor& running_mean, const Tensor& running_rstd, bool batch_statistics,
    double eps, double sigmoid_scale) {
  const Tensor w = weight.flatten(1), z = at::linear(x, w, bias);
  Tensor mean = running_mean, rstd = running_rstd, normalized = z, y = z, grad = grad_y;
  Tensor grad_norm_weight = at::empty({0}, x.options()), grad_norm_bias = at::empty({0}, x.options());
  if (norm_weight) {
    if (batch_statistics) {
      mean = z.mean(0);
      rstd = ((z - mean).square().mean(0) + eps).rsqrt();
    }
    normalized = (z - mean) * rstd;
    y = normalized * *norm_weight + *norm_bias;
  }
  if (sigmoid_scale != 0) {
    const Tensor s = y.sigmoid();
    grad = grad * sigmoid_scale * s * (1 - s);
  }
  if (norm_weight) {
    grad_norm_weight = (grad * normalized).sum(0);
    grad_norm_bias = grad.sum(0);
    if (batch_statistics) {
      grad = grad - (grad_norm_bias + normalized * grad_norm_weight) / x.sym_size(0);
    }
    grad = grad * rstd * *norm_weight;
  }
  return {
      grad.mm(w), grad.t().mm(x).reshape_symint(weight.sym_sizes()), grad.sum(0), grad_norm_weight, grad_norm_bias};
}

struct GeneratorLayer : torch::autograd::Function<GeneratorLayer> {
  static constexpr bool is_traceable = true;

  static variable_list forward(
      AutogradContext* context, const Tensor& x, const Tensor& weight, const Tensor& bias,
      const MaybeTensor& norm_weight, const MaybeTensor& norm_bias, const MaybeTensor& running_mean,
      const MaybeTensor& running_var, bool batch_statistics, double eps, double sigmoid_scale) {
    at::AutoDispatchBelowADInplaceOrView below;
    auto [y, z, mean, rstd, variance] = call_generator_layer(
        x, weight, bias, norm_weight, norm_bias, running_mean, running_var, batch_statistics, eps, sigmoid_scale);
    context->set_materialize_grads(false);
    context->mark_non_differentiable({z, mean, rstd, variance});
    context->save_for_backward(
        {x, weight, bias, norm_weight.value_or(Tensor()), norm_bias.value_or(Tensor()), y, z, mean, rstd});
    context->saved_data["batch_statistics"] = batch_statistics;
    context->saved_data["eps"] = eps;
    context->saved_data["sigmoid_scale"] = sigmoid_scale;
    return {y, z, mean, rstd, variance};
  }

  static variable_list backward(AutogradContext* context, variable_list grads) {
    if (!grads[0].defined()) {
      return variable_list(10);
    }
    const auto saved = context->get_saved_variables();
    const auto maybe = [](const Tensor& t) { return t.defined() ? MaybeTensor(t) : std::nullopt; };
    auto [x, weight, bias, norm_weight, norm_bias] = call_generator_layer_backward(
        grads[0], saved[0], saved[1], saved[2], maybe(saved[3]), maybe(saved[4]), saved[5], saved[6], saved[7],
        saved[8], context->saved_data["batch_statistics"].toBool(), context->saved_data["eps"].toDouble(),
        context->saved_data["sigmoid_scale"].toDouble());
    const bool has_norm = saved[3].defined();
    const Tensor none;
    return {
        x,    weight, bias, has_norm ? norm_weight : none, has_norm ? norm_bias : none, none, none, none, none,
        none};
  }
};

OutputsOfLayer generator_layer_autograd(
    const Tensor& x, const Tensor& weight, const Tensor& bias, const MaybeTensor& norm_weight,
    const MaybeTensor& norm_bias, const MaybeTensor& running_mean, const MaybeTensor& running_var,
    bool batch_statistics, double eps, double sigmoid_scale) {
  const auto all = GeneratorLayer::apply(
      x, weight, bias, norm_weight, norm_bias, running_mean, running_var, batch_statistics, eps, sigmoid_scale);
  return {all[0], all[1], all[2], all[3], all[4]};
}

GradientsOfLayer generator_layer_backward_autograd(
    const Tensor& grad_y, const Tensor& x, const Tensor& weight, const Tensor& bias, const MaybeTensor& norm_weight,
    const MaybeTensor& norm_bias, const Tensor& y, const Tensor& z, const Tensor& mean, const Tensor& rstd,
    bool batch_statistics, double eps, double sigmoid_scale) {
  if (at::GradMode::is_enabled()) { // as in acon_c_backward_autograd
    return composed_layer_backward(
        grad_y, x, weight, bias, norm_weight, norm_bias, mean, rstd, batch_statistics, eps, sigmoid_scale);
  }
  at::AutoDispatchBelowADInplaceOrView below;
  return call_generator_layer_backward(
      grad_y, x, weight, bias, norm_weight, norm_bias, y, z, mean, rstd, batch_statistics, eps, sigmoid_scale);
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

  // By reference: a copy of the list would hold its tensors once more.
  static variable_list backward(AutogradContext* context, variable_list& grads) {
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
  return instruction_set();
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
  m.def(
      "generator_layer(Tensor x, Tensor weight, Tensor bias, Tensor? norm_weight, Tensor? norm_bias, "
      "Tensor? running_mean, Tensor? running_var, bool batch_statistics, float eps, float sigmoid_scale) "
      "-> (Tensor y, Tensor z, Tensor mean, Tensor rstd, Tensor variance)",
      {at::Tag::pt2_compliant_tag});
  m.def(
      "generator_layer_backward(Tensor grad_y, Tensor x, Tensor weight, Tensor bias, Tensor? norm_weight, "
      "Tensor? norm_bias, Tensor y, Tensor z, Tensor mean, Tensor rstd, bool batch_statistics, float eps, "
      "float sigmoid_scale) -> (Tensor grad_x, Tensor grad_weight, Tensor grad_bias, Tensor grad_norm_weight, "
      "Tensor grad_norm_bias)",
      {at::Tag::pt2_compliant_tag});
  m.def("channel_mean(Tensor x, int channel_dim=1) -> Tensor", {at::Tag::pt2_compliant_tag});
  // Returns an alias of its input, which operators under torch.compile must not; the module takes another way there.
  m.def("input_and_mean(Tensor(a) x, int channel_dim=1) -> (Tensor(a) x, Tensor mean)", &input_and_mean);
  m.def("cpu_kernels() -> str", &cpu_kernels);
}

TORCH_LIBRARY_IMPL(acon_mm, CPU, m) {
  m.impl("acon_c", &acon_c_cpu);
  m.impl("acon_c_backward", &acon_c_backward_cpu);
  m.impl("generator_layer", &generator_layer_cpu);
  m.impl("generator_layer_backward", &generator_layer_backward_cpu);
  m.impl("channel_mean", &channel_mean_cpu);
}

TORCH_LIBRARY_IMPL(acon_mm, Meta, m) {
  m.impl("acon_c", &acon_c_meta);
  m.impl("acon_c_backward", &acon_c_backward_meta);
  m.impl("generator_layer", &generator_layer_meta);
  m.impl("generator_layer_backward", &generator_layer_backward_meta);
  m.impl("channel_mean", &channel_mean_meta);
}

TORCH_LIBRARY_IMPL(acon_mm, Autograd, m) {
  m.impl("acon_c", [](const Tensor& x, const Tensor& p1, const Tensor& p2, const Tensor& beta, int64_t channel_dim) {
    return AconCFunction::apply(x, p1, p2, beta, channel_dim);
  });
  m.impl("acon_c_backward", &acon_c_backward_autograd);
  m.impl("generator_layer", &generator_layer_autograd);
  m.impl("generator_layer_backward", &generator_layer_backward_autograd);
}

} // namespace acon
