// The operators acon_mm::acon_c, acon_mm::meta_acon_c and acon_mm::input_and_mean, with autograd, for PyTorch.
// What they compute is in cpu.cpp.
#include <ATen/ATen.h>
#include <ATen/TensorSubclassLikeUtils.h>
#include <torch/csrc/autograd/autograd.h>
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
    const int64_t channel_dim =
        at::maybe_wrap_dim(context->saved_data["channel_dim"].toInt(), static_cast<int64_t>(sizes.size()));
    if (!grad_x.defined()) {
      grad_x = at::zeros(sizes, grad_mean.options());
    }
    return {with_gradient_of_mean(std::move(grad_x), grad_mean, channel_dim), Tensor()};
  }
};

std::tuple<Tensor, Tensor> input_and_mean(const Tensor& x, int64_t channel_dim) {
  auto both = InputAndMean::apply(x, channel_dim);
  return {std::move(both[0]), std::move(both[1])};
}

// What Meta-ACON-C has beside x, p1 and p2. `parameters` are weight and bias of fc1, bn1, fc2 and bn2, or of fc1 and
// fc2; `buffers` running mean, running variance and count of batches of bn1 and bn2, or none.
struct Generator {
  std::vector<Tensor> parameters, buffers;
  bool batch_statistics;
  double momentum, eps, beta_scale;

  bool has_norm() const {
    return parameters.size() == 8;
  }

  GeneratorLayer layer(int index) const {
    const Tensor* const own = &parameters[index * (has_norm() ? 4 : 2)];
    GeneratorLayer layer;
    layer.weight = own[0], layer.bias = own[1];
    layer.batch_statistics = batch_statistics, layer.momentum = momentum, layer.eps = eps;
    layer.sigmoid_scale = index == 1 ? beta_scale : 0;
    if (has_norm()) {
      layer.norm_weight = own[2], layer.norm_bias = own[3];
    }
    if (!buffers.empty()) {
      const Tensor* const of_norm = &buffers[index * 3];
      layer.running_mean = of_norm[0], layer.running_var = of_norm[1], layer.batches = of_norm[2];
    }
    return layer;
  }
};

// Meta-ACON-C out of PyTorch's operators and acon_c, for double backward and tensors that only those understand. Running
// statistics move where `moves` says so.
Tensor composed_meta(
    const Tensor& x, const Tensor& p1, const Tensor& p2, const Generator& generator, int64_t channel_dim, bool moves) {
  std::vector<int64_t> space;
  for (int64_t d = 1; d < x.dim(); ++d) {
    if (d != channel_dim) {
      space.push_back(d);
    }
  }
  Tensor pooled = x.mean(space, false, compute_type(x));
  for (int index = 0; index < 2; ++index) {
    const GeneratorLayer layer = generator.layer(index);
    pooled = at::linear(pooled, layer.weight.flatten(1), layer.bias);
    if (generator.has_norm()) {
      const bool given = moves || !layer.batch_statistics;
      if (moves && layer.batch_statistics) {
        layer.batches.add_(1);
      }
      pooled = at::batch_norm(
          pooled, layer.norm_weight, layer.norm_bias, given ? layer.running_mean : Tensor(),
          given ? layer.running_var : Tensor(), layer.batch_statistics, layer.momentum, layer.eps, false);
    }
  }
  return call_acon_c(x, p1, p2, pooled.sigmoid() * generator.beta_scale, channel_dim);
}

// Mean, generator and activation at once: what is small costs more to call than to compute.
struct MetaAconC : torch::autograd::Function<MetaAconC> {
  static Tensor forward(
      AutogradContext* context, const Tensor& x, const Tensor& p1, const Tensor& p2, at::TensorList,
      const Generator& generator, int64_t channel_dim) {
    at::AutoDispatchBelowADInplaceOrView below;
    const Tensor mean = channel_mean_cpu(x, channel_dim);
    const GeneratorOutputs hidden = generator_layer(mean, generator.layer(0));
    const GeneratorOutputs beta = generator_layer(hidden.y, generator.layer(1));
    variable_list saved = {x, p1, p2, mean};
    for (const GeneratorOutputs& outputs : {hidden, beta}) {
      saved.insert(saved.end(), {outputs.y, outputs.z, outputs.mean, outputs.rstd});
    }
    saved.insert(saved.end(), generator.parameters.begin(), generator.parameters.end());
    context->save_for_backward(std::move(saved));
    auto& data = context->saved_data;
    data["batch_statistics"] = generator.batch_statistics;
    data["momentum"] = generator.momentum;
    data["eps"] = generator.eps;
    data["beta_scale"] = generator.beta_scale;
    data["channel_dim"] = channel_dim;
    return acon_c_cpu(x, p1, p2, beta.y, channel_dim);
  }

  static variable_list backward(AutogradContext* context, variable_list grads) {
    constexpr size_t kOwn = 12; // saved before the parameters
    const variable_list saved = context->get_saved_variables();
    auto& data = context->saved_data;
    Generator generator{
        variable_list(saved.begin() + kOwn, saved.end()),
        {},
        data["batch_statistics"].toBool(),
        data["momentum"].toDouble(),
        data["eps"].toDouble(),
        data["beta_scale"].toDouble()};
    const int64_t channel_dim = data["channel_dim"].toInt();
    const Tensor &x = saved[0], &p1 = saved[1], &p2 = saved[2], &mean = saved[3];
    const GeneratorOutputs hidden{saved[4], saved[5], saved[6], saved[7]};
    const GeneratorOutputs beta{saved[8], saved[9], saved[10], saved[11]};

    const bool differentiable = at::GradMode::is_enabled(); // as in acon_c_backward_autograd
    if (differentiable || at::isTensorSubclassLike(grads[0])) {
      if (generator.has_norm() && !generator.batch_statistics) {
        // The statistics as they were, since the running ones may have moved.
        const auto variance = [&](const Tensor& rstd) { return rstd.pow(-2) - generator.eps; };
        generator.buffers = {hidden.mean, variance(hidden.rstd), {}, beta.mean, variance(beta.rstd), {}};
      }
      return composed_backward(grads[0], x, p1, p2, generator, channel_dim, differentiable);
    }
    auto [grad_x, grad_p1, grad_p2, grad_beta] = acon_c_backward_cpu(grads[0], x, p1, p2, beta.y, channel_dim);
    const GeneratorGradients second = generator_layer_backward(grad_beta, hidden.y, generator.layer(1), beta);
    const GeneratorGradients first = generator_layer_backward(second.x, mean, generator.layer(0), hidden);
    variable_list result = {with_gradient_of_mean(std::move(grad_x), first.x, channel_dim), grad_p1, grad_p2};
    for (const GeneratorGradients& layer : {first, second}) {
      result.insert(result.end(), {layer.weight, layer.bias});
      if (generator.has_norm()) {
        result.insert(result.end(), {layer.norm_weight, layer.norm_bias});
      }
    }
    result.resize(result.size() + 2); // the generator and the channel dimension have none
    return result;
  }

 private:
  static variable_list composed_backward(
      const Tensor& grad_y, const Tensor& x, const Tensor& p1, const Tensor& p2, const Generator& generator,
      int64_t channel_dim, bool differentiable) {
    at::AutoGradMode recording(true);
    variable_list inputs = {x, p1, p2};
    inputs.insert(inputs.end(), generator.parameters.begin(), generator.parameters.end());
    variable_list wanted;
    for (const Tensor& input : inputs) {
      if (input.requires_grad()) {
        wanted.push_back(input);
      }
    }
    const Tensor y = composed_meta(x, p1, p2, generator, channel_dim, false);
    const variable_list found = torch::autograd::grad({y}, wanted, {grad_y}, differentiable, differentiable);
    variable_list result;
    for (size_t i = 0, next = 0; i < inputs.size(); ++i) {
      result.push_back(inputs[i].requires_grad() ? found[next++] : Tensor());
    }
    result.resize(result.size() + 2);
    return result;
  }
};

Tensor meta_acon_c(
    const Tensor& x, const Tensor& p1, const Tensor& p2, at::TensorList parameters, at::TensorList buffers,
    bool batch_statistics, double momentum, double eps, double beta_scale, int64_t dim) {
  TORCH_CHECK(
      (parameters.size() == 4 && buffers.empty()) || (parameters.size() == 8 && buffers.size() == 6),
      "meta_acon_c takes 4 parameters of the generator and no buffers, or 8 and 6, got ", parameters.size(), " and ",
      buffers.size());
  const Generator generator{parameters.vec(), buffers.vec(), batch_statistics, momentum, eps, beta_scale};
  const int64_t channel_dim = at::maybe_wrap_dim(dim, x.dim());
  // Nothing has chosen by device so far, and a kernel must not read what it cannot.
  const auto readable = [](at::TensorList tensors) {
    return std::all_of(tensors.begin(), tensors.end(), [](const Tensor& t) { return t.is_cpu(); }) &&
        !at::areAnyTensorSubclassLike(tensors);
  };
  if (!readable({x, p1, p2}) || !readable(parameters) || !readable(buffers)) {
    return composed_meta(x, p1, p2, generator, channel_dim, true);
  }
  return MetaAconC::apply(x, p1, p2, parameters, generator, channel_dim);
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
  m.def("channel_mean(Tensor x, int channel_dim=1) -> Tensor", {at::Tag::pt2_compliant_tag});
  // Neither is for torch.compile, where the module takes another way: operators there must not return their input, nor
  // choose by what a tensor is.
  m.def("input_and_mean(Tensor(a) x, int channel_dim=1) -> (Tensor(a) x, Tensor mean)", &input_and_mean);
  m.def(
      "meta_acon_c(Tensor x, Tensor p1, Tensor p2, Tensor[] parameters, Tensor(a!)[] buffers, bool batch_statistics, "
      "float momentum, float eps, float beta_scale, int channel_dim=1) -> Tensor",
      &meta_acon_c);
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
