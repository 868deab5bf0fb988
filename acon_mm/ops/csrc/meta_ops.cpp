// The operator meta_acon_c, with autograd: Meta-ACON-C with its channel-wise generator. cpu.cpp and cpu_generator.cpp
// compute it.
#include <ATen/ATen.h>
#include <ATen/TensorSubclassLikeUtils.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include "cpu.h"

namespace acon {
namespace {

using MaybeTensor = std::optional<Tensor>;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

Tensor meta_acon_c(
    const Tensor& x, const Tensor& p1, const Tensor& p2, const Generator& generator, int64_t channel_dim);

// The arguments of the operators, in the schema's order. The names from fc1_weight to beta_scale are the fields of
// `Generator` in ops/generator.py.
constexpr char kArguments[] =
    "(Tensor x, Tensor p1, Tensor p2, "
    "Tensor fc1_weight, Tensor fc1_bias, Tensor? bn1_weight, Tensor? bn1_bias, "
    "Tensor(a!)? bn1_running_mean, Tensor(b!)? bn1_running_var, Tensor(c!)? bn1_num_batches_tracked, "
    "Tensor fc2_weight, Tensor fc2_bias, Tensor? bn2_weight, Tensor? bn2_bias, "
    "Tensor(d!)? bn2_running_mean, Tensor(e!)? bn2_running_var, Tensor(f!)? bn2_num_batches_tracked, "
    "bool batch_statistics, float momentum, float eps, float beta_scale, int channel_dim) -> Tensor";

// Packs the arguments.
Tensor meta_acon_c_operator(
    const Tensor& x, const Tensor& p1, const Tensor& p2,
    // first layer
    const Tensor& fc1_weight, const Tensor& fc1_bias, const MaybeTensor& bn1_weight, const MaybeTensor& bn1_bias,
    const MaybeTensor& bn1_running_mean, const MaybeTensor& bn1_running_var,
    const MaybeTensor& bn1_num_batches_tracked,
    // second layer
    const Tensor& fc2_weight, const Tensor& fc2_bias, const MaybeTensor& bn2_weight, const MaybeTensor& bn2_bias,
    const MaybeTensor& bn2_running_mean, const MaybeTensor& bn2_running_var,
    const MaybeTensor& bn2_num_batches_tracked,
    // options
    bool batch_statistics, double momentum, double eps, double beta_scale, int64_t channel_dim) {
  const auto given = [](const MaybeTensor& t) { return t.value_or(Tensor()); };
  const Generator generator{
      {fc1_weight, fc1_bias, given(bn1_weight), given(bn1_bias), given(bn1_running_mean), given(bn1_running_var),
       given(bn1_num_batches_tracked)},
      {fc2_weight, fc2_bias, given(bn2_weight), given(bn2_bias), given(bn2_running_mean), given(bn2_running_var),
       given(bn2_num_batches_tracked)},
      batch_statistics,
      momentum,
      eps,
      beta_scale};
  return meta_acon_c(x, p1, p2, generator, channel_dim);
}

// Unpacks them for the operator that ops/cpu.py registers: the same out of PyTorch's operators and acon_c. It moves the
// running statistics where the generator has some.
Tensor call_composed(
    const Tensor& x, const Tensor& p1, const Tensor& p2, const Generator& generator, int64_t channel_dim) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("acon_mm::meta_acon_c_composed", "")
                             .typed<decltype(meta_acon_c_operator)>();
  const auto maybe = [](const Tensor& t) { return t.defined() ? MaybeTensor(t) : std::nullopt; };
  const GeneratorLayer &first = generator.first, &second = generator.second;
  return op.call(
      x, p1, p2,
      // first layer
      first.fc_weight, first.fc_bias, maybe(first.bn_weight), maybe(first.bn_bias), maybe(first.bn_running_mean),
      maybe(first.bn_running_var), maybe(first.bn_num_batches_tracked),
      // second layer
      second.fc_weight, second.fc_bias, maybe(second.bn_weight), maybe(second.bn_bias), maybe(second.bn_running_mean),
      maybe(second.bn_running_var), maybe(second.bn_num_batches_tracked),
      // options
      generator.batch_statistics, generator.momentum, generator.eps, generator.beta_scale, channel_dim);
}

// Appends the tensors of a Generator or of its gradients, without those of a norm where there is none.
template <typename G>
void append_learned(variable_list& list, const G& generator) {
  for_each_learned(generator, [&](const Tensor& t) {
    if (t.defined()) {
      list.push_back(t);
    }
  });
}

// What backward needs.
struct Saved {
  Tensor x, p1, p2, mean;
  GeneratorOutputs outputs;
  Generator generator; // without running statistics, which may move before backward
  int64_t channel_dim;

  void save(AutogradContext* context) const {
    variable_list list;
    for_each(*this, [&](const Tensor& t) { list.push_back(t); });
    context->save_for_backward(std::move(list));
    auto& data = context->saved_data;
    data["batch_statistics"] = generator.batch_statistics;
    data["momentum"] = generator.momentum;
    data["eps"] = generator.eps;
    data["beta_scale"] = generator.beta_scale;
    data["channel_dim"] = channel_dim;
  }

  static Saved load(AutogradContext* context) {
    Saved saved;
    const variable_list list = context->get_saved_variables();
    auto next = list.begin();
    for_each(saved, [&](Tensor& t) { t = *next++; });
    auto& data = context->saved_data;
    saved.generator.batch_statistics = data["batch_statistics"].toBool();
    saved.generator.momentum = data["momentum"].toDouble();
    saved.generator.eps = data["eps"].toDouble();
    saved.generator.beta_scale = data["beta_scale"].toDouble();
    saved.channel_dim = data["channel_dim"].toInt();
    return saved;
  }

 private:
  // Calls f for each tensor. This is the one place that defines the order in which they are saved.
  template <typename Self, typename F>
  static void for_each(Self& self, F f) {
    f(self.x), f(self.p1), f(self.p2), f(self.mean);
    for (auto* layer : {&self.outputs.first, &self.outputs.second}) {
      f(layer->y), f(layer->z), f(layer->mean), f(layer->rstd);
    }
    for_each_learned(self.generator, f);
  }
};

// One node for mean, generator and activation: for small tensors, calls cost more than the computation.
struct MetaAconC : torch::autograd::Function<MetaAconC> {
  // Autograd records the tensors; `learned` are those of the generator.
  static Tensor forward(
      AutogradContext* context, const Tensor& x, const Tensor& p1, const Tensor& p2, at::TensorList /* learned */,
      const Generator& generator, int64_t channel_dim) {
    at::AutoDispatchBelowADInplaceOrView below;
    Saved saved{x, p1, p2, channel_mean_cpu(x, channel_dim), {}, generator, channel_dim};
    saved.outputs = generator_cpu(saved.mean, generator);
    saved.save(context);
    return acon_c_cpu(x, p1, p2, saved.outputs.beta(), channel_dim);
  }

  static variable_list backward(AutogradContext* context, variable_list grads) {
    const Saved saved = Saved::load(context);
    const bool create_graph = at::GradMode::is_enabled(); // see acon_c_backward_autograd in ops.cpp
    variable_list result = create_graph || at::isTensorSubclassLike(grads[0])
        ? composed_backward(grads[0], saved, create_graph)
        : cpu_backward(grads[0], saved);
    result.resize(result.size() + 2); // the generator and the channel dimension have no gradient
    return result;
  }

 private:
  static variable_list cpu_backward(const Tensor& grad_y, const Saved& saved) {
    auto [grad_x, grad_p1, grad_p2, grad_beta] =
        acon_c_backward_cpu(grad_y, saved.x, saved.p1, saved.p2, saved.outputs.beta(), saved.channel_dim);
    const GeneratorGradients generator =
        generator_backward_cpu(grad_beta, saved.mean, saved.generator, saved.outputs);
    variable_list result = {
        with_gradient_of_mean(std::move(grad_x), generator.mean, saved.channel_dim), grad_p1, grad_p2};
    append_learned(result, generator);
    return result;
  }

  // Computes y again out of PyTorch's operators, and differentiates that.
  static variable_list composed_backward(const Tensor& grad_y, const Saved& saved, bool create_graph) {
    at::AutoGradMode recording(true);
    Generator generator = saved.generator;
    if (generator.has_norm() && !generator.batch_statistics) {
      // The running statistics as they were in forward.
      const auto restore = [&](GeneratorLayer& layer, const GeneratorLayerOutputs& outputs) {
        layer.bn_running_mean = outputs.mean;
        layer.bn_running_var = outputs.rstd.pow(-2) - generator.eps;
      };
      restore(generator.first, saved.outputs.first);
      restore(generator.second, saved.outputs.second);
    }
    variable_list inputs = {saved.x, saved.p1, saved.p2}, wanted;
    append_learned(inputs, generator);
    for (const Tensor& input : inputs) {
      if (input.requires_grad()) {
        wanted.push_back(input);
      }
    }
    const Tensor y = call_composed(saved.x, saved.p1, saved.p2, generator, saved.channel_dim);
    const variable_list found = torch::autograd::grad({y}, wanted, {grad_y}, create_graph, create_graph);
    auto next = found.begin();
    variable_list result;
    for (const Tensor& input : inputs) {
      result.push_back(input.requires_grad() ? *next++ : Tensor());
    }
    return result;
  }
};

// The number of tensors that a norm has.
int64_t count(const std::array<Tensor, 5>& norm) {
  return std::count_if(norm.begin(), norm.end(), [](const Tensor& t) { return t.defined(); });
}

// Whether the kernels can read a tensor: not one of another device, nor one without memory of its own.
bool is_readable(const Tensor& t) {
  return !t.defined() || (t.is_cpu() && !at::isTensorSubclassLike(t));
}

bool is_readable(const GeneratorLayer& layer) {
  const auto norm = layer.norm();
  return is_readable(layer.fc_weight) && is_readable(layer.fc_bias) &&
      std::all_of(norm.begin(), norm.end(), [](const Tensor& t) { return is_readable(t); });
}

Tensor meta_acon_c(
    const Tensor& x, const Tensor& p1, const Tensor& p2, const Generator& generator, int64_t channel_dim) {
  const int64_t first = count(generator.first.norm()), second = count(generator.second.norm());
  TORCH_CHECK(
      first == second && (first == 0 || first == 5),
      "meta_acon_c takes all five tensors of bn1 and of bn2, or None for all of them, got ", first, " and ", second);
  // PyTorch has not chosen by device, as this operator is for all of them.
  if (!is_readable(x) || !is_readable(p1) || !is_readable(p2) || !is_readable(generator.first) ||
      !is_readable(generator.second)) {
    return call_composed(x, p1, p2, generator, channel_dim);
  }
  variable_list learned;
  append_learned(learned, generator);
  return MetaAconC::apply(x, p1, p2, at::TensorList(learned), generator, at::maybe_wrap_dim(channel_dim, x.dim()));
}

} // namespace

TORCH_LIBRARY_FRAGMENT(acon_mm, m) {
  const auto schema = [](const std::string& name) { return torch::schema((name + kArguments).c_str()); };
  // Not for torch.compile, where an operator must not choose by the type of a tensor. The module calls its layers
  // there.
  m.def(schema("meta_acon_c"), &meta_acon_c_operator);
  m.def(schema("meta_acon_c_composed"));
}

} // namespace acon
