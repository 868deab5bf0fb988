// The operator meta_acon_c, with autograd: Meta-ACON-C with its channel-wise generator. cpu_meta.cpp computes it on a
// CPU, gpu_meta.cpp on a GPU.
#include <ATen/ATen.h>
#include <ATen/TensorSubclassLikeUtils.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include "compat.h"
#include "gpu.h"
#include "meta.h"
#include "norm_before.h"
#include "recompute.h"

namespace acon {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

Tensor meta_acon_c(
    const Tensor& x, const Tensor& p1, const Tensor& p2, const Generator& generator, int64_t channel_dim,
    bool may_overwrite);

// The arguments come in the order of the schema, whose names from fc1_weight to beta_scale are the fields of
// `Generator` in ops/generator.py.
// Packs the arguments.
template <bool may_overwrite>
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
  return meta_acon_c(x, p1, p2, generator, channel_dim, may_overwrite);
}

// Unpacks them for the operator that ops/operators.py registers: the same out of PyTorch's operators and acon_c. It
// moves the running statistics where the generator has some.
Tensor call_reference(
    const Tensor& x, const Tensor& p1, const Tensor& p2, const Generator& generator, int64_t channel_dim) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("acon_mm::meta_acon_c_reference", "")
                             .typed<decltype(meta_acon_c_operator<false>)>();
  const auto maybe = [](const Tensor& t) { return t.defined() ? MaybeTensor(t) : MaybeTensor(); };
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

// The inputs, and what backward needs besides them. `kept` comes last, because its length depends on the device. With a
// norm before, `in.x` is the norm's input.
void save(
    AutogradContext* context, const MetaInputs& in, const Recipe& recipe_of_x, const variable_list& kept,
    const NormBefore& before) {
  variable_list list = {Tensor(), in.p1, in.p2};
  // Without running statistics, which may move before backward.
  for_each_learned(in.generator, [&](const Tensor& t) { list.push_back(t); });
  list.insert(list.end(), kept.begin(), kept.end());
  save_norm(*context, list, before);
  save_input(*context, in.x, recipe_of_x, std::move(list));
  auto& data = context->saved_data;
  data["batch_statistics"] = in.generator.batch_statistics;
  data["momentum"] = in.generator.momentum;
  data["eps"] = in.generator.eps;
  data["beta_scale"] = in.generator.beta_scale;
  data["channel_dim"] = in.channel_dim;
}

struct Saved {
  SavedInput x;
  MetaInputs in; // where x is not kept, with a stand-in of its shape
  variable_list kept;
  NormBefore before;
};

Saved load(AutogradContext* context) {
  Saved saved{load_input(*context), {}, {}, {}};
  saved.before = load_norm(*context, saved.x.list);
  MetaInputs& in = saved.in;
  auto next = saved.x.list.cbegin();
  in.x = *next++, in.p1 = *next++, in.p2 = *next++;
  for_each_learned(in.generator, [&](Tensor& t) { t = *next++; });
  auto& data = context->saved_data;
  in.generator.batch_statistics = data["batch_statistics"].toBool();
  in.generator.momentum = data["momentum"].toDouble();
  in.generator.eps = data["eps"].toDouble();
  in.generator.beta_scale = data["beta_scale"].toDouble();
  in.channel_dim = data["channel_dim"].toInt();
  saved.kept.assign(next, saved.x.list.cend());
  return saved;
}

const MetaKernels& kernels_for(const Tensor& x) {
  return runs_on_gpu(x) ? meta_gpu : meta_cpu;
}

// The generator with the running statistics of forward.
Generator as_in_forward(const MetaInputs& in, const variable_list& kept) {
  Generator generator = in.generator;
  if (generator.has_norm() && !generator.batch_statistics) {
    const auto restore = [&](GeneratorLayer& layer, const NormStatistics& statistics) {
      layer.bn_running_mean = statistics.mean;
      layer.bn_running_var = statistics.rstd.pow(-2) - generator.eps;
    };
    const auto statistics = kernels_for(in.x).statistics(in, kept);
    restore(generator.first, statistics[0]);
    restore(generator.second, statistics[1]);
  }
  return generator;
}

// One node for mean, generator and activation: for small tensors, calls cost more than the computation. `normed`: the
// norm before belongs to it too.
template <bool normed>
struct MetaAconC : torch::autograd::Function<MetaAconC<normed>> {
  // Autograd records the tensors. x is the norm's input where there is a norm, `affine` are the norm's parameters, and
  // `z` is its output, which is overwritten. `learned` are the parameters of the generator.
  static Tensor forward(
      AutogradContext* context, const Tensor& x, at::TensorList /* affine */, const Tensor& p1, const Tensor& p2,
      at::TensorList /* learned */, const Generator& generator, int64_t channel_dim, const Recipe& recipe_of_x,
      NormBefore before, const Overwritten& z) {
    at::AutoDispatchBelowADInplaceOrView below;
    const MetaInputs in{x, p1, p2, generator, channel_dim};
    MetaResult result = normed ? kernels_for(x).forward_after_norm(in, before.norm, z.tensor)
                               : kernels_for(x).forward(in);
    save(context, in, recipe_of_x, result.kept, before);
    return result.y;
  }

  static std::optional<Recipe> recipe_of(AutogradContext& context) {
    if (!context.saved_data["saved_plainly"].toBool()) {
      return std::nullopt;
    }
    const auto [x, in, kept, before] = load(&context);
    const Tensor beta = kernels_for(in.x).beta(in, kept);
    if (normed) {
      return before.then_activate(in.channel_dim, in.p1, in.p2, beta);
    }
    return x.recipe.then(Recipe::activate, static_cast<double>(in.channel_dim), {in.p1, in.p2, beta});
  }

  // `grads` is a reference, because a copy of the list would own its tensors too.
  static variable_list backward(AutogradContext* context, variable_list& grads) {
    auto [x, in, kept, before] = load(context);
    check_gradient(grads[0], in.x);
    in.x = x.make();
    // See acon_c_backward_autograd in ops.cpp.
    const bool composed = at::GradMode::is_enabled() || at::isTensorSubclassLike(grads[0]);
    variable_list result = composed ? composed_backward(grads[0], in, kept, before)
                                    : kernel_backward(std::move(grads[0]), in, kept, before);
    result.resize(result.size() + 5); // the last five arguments have no gradient
    return result;
  }

 private:
  static variable_list kernel_backward(
      Tensor grad_y, const MetaInputs& in, const variable_list& kept, const NormBefore& before) {
    if (normed) {
      GeneratorGradients of_generator;
      const auto grad =
          kernels_for(in.x).backward_after_norm(std::move(grad_y), in, kept, before.norm, of_generator);
      variable_list others = {grad.p1, grad.p2};
      append_learned(others, of_generator);
      return before.gradients(grad, others);
    }
    MetaGradients grad = kernels_for(in.x).backward(std::move(grad_y), in, kept);
    variable_list result = {std::move(grad.x), std::move(grad.p1), std::move(grad.p2)};
    append_learned(result, grad.generator);
    return result;
  }

  // Computes y again out of PyTorch's operators, and differentiates that.
  static variable_list composed_backward(
      const Tensor& grad_y, const MetaInputs& in, const variable_list& kept, const NormBefore& before) {
    const Generator generator = as_in_forward(in, kept);
    variable_list inputs = before.affine();
    inputs.insert(inputs.begin(), in.x);
    inputs.insert(inputs.end(), {in.p1, in.p2});
    append_learned(inputs, generator);
    return composed_gradients(grad_y, inputs, [&] {
      return call_reference(normed ? before.output() : in.x, in.p1, in.p2, generator, in.channel_dim);
    });
  }
};

const bool meta_acon_c_is_known =
    register_acon<MetaAconC<false>>() && register_acon<MetaAconC<true>>(/*version=*/1);

// The number of tensors that a norm has.
int64_t count(const std::array<Tensor, 5>& norm) {
  return std::count_if(norm.begin(), norm.end(), [](const Tensor& t) { return t.defined(); });
}

// Whether the kernels of x's device can read a tensor: one of this device, with memory of its own.
bool is_readable(const Tensor& t, const c10::Device& device) {
  return !t.defined() || (t.device() == device && !at::isTensorSubclassLike(t) && !t.is_neg());
}

// The checks of a layer, and whether the kernels can read its tensors.
bool is_readable(const GeneratorLayer& layer, int64_t inputs, const Tensor& p1) {
  const int64_t outputs = layer.fc_weight.size(0);
  TORCH_CHECK(
      layer.fc_weight.numel() == outputs * inputs, "a layer of the generator with ", inputs,
      " inputs takes a weight (out, ", inputs, ", 1, 1), got ", layer.fc_weight.sizes());
  bool readable = true;
  for (const Tensor* t :
       {&layer.fc_weight, &layer.fc_bias, &layer.bn_weight, &layer.bn_bias, &layer.bn_running_mean,
        &layer.bn_running_var}) {
    if (!t->defined()) {
      continue;
    }
    TORCH_CHECK(
        t->device() == p1.device() && t->scalar_type() == p1.scalar_type() && t->dim() > 0 && t->size(0) == outputs &&
            (t == &layer.fc_weight || t->dim() == 1),
        "a layer of the generator with ", outputs, " outputs takes tensors with as many values, ", p1.scalar_type(),
        " on ", p1.device(), ", got ", t->scalar_type(), " of shape ", t->sizes(), " on ", t->device());
    readable = readable && t->is_contiguous() && is_readable(*t, p1.device());
  }
  return readable && is_readable(layer.bn_num_batches_tracked, p1.device());
}

Tensor meta_acon_c(
    const Tensor& x, const Tensor& p1, const Tensor& p2, const Generator& generator, int64_t channel_dim,
    bool may_overwrite) {
  const int64_t first = count(generator.first.norm()), second = count(generator.second.norm());
  TORCH_CHECK(
      first == second && (first == 0 || first == 5),
      "meta_acon_c takes all five tensors of bn1 and of bn2, or None for all of them, got ", first, " and ", second);
  const int64_t dim = check_arguments(x, p1, p2, p1, channel_dim);
  TORCH_CHECK(
      p1.dim() == 1 && p2.dim() == 1, "meta_acon_c takes p1 and p2 per channel, got shapes ", p1.sizes(), " and ",
      p2.sizes());
  TORCH_CHECK(
      !generator.has_norm() || !generator.batch_statistics || x.sym_size(0) > 1,
      "batch statistics need two samples or more, got ", x.sym_size(0), ": use batch_statistics=False");
  const auto wide = compute_type(x);
  // PyTorch has not chosen by device, as this operator is for all of them.
  const bool served = (runs_on_gpu(x) ? gpu_serves(x, dim) : x.is_cpu()) && x.numel() > 0 &&
      p1.scalar_type() == wide && p2.scalar_type() == wide && p1.is_contiguous() && p2.is_contiguous() &&
      is_readable(x, x.device()) && is_readable(p1, x.device()) && is_readable(p2, x.device());
  if (!served || !is_readable(generator.first, x.size(dim), p1) ||
      !is_readable(generator.second, generator.first.fc_weight.size(0), p1)) {
    return call_reference(x, p1, p2, generator, dim);
  }
  variable_list learned;
  append_learned(learned, generator);
  const Recipe recipe_of_x = prepare_input(x);
  const NormBefore before = may_overwrite ? norm_before(x, p1, p2, p1, dim) : NormBefore();
  const variable_list affine = before.affine();
  Tensor y;
  if (before.defined()) {
    take_history(
        x, MetaAconC<true>::apply(
               before.input, at::TensorList(affine), p1, p2, at::TensorList(learned), generator, dim,
               Recipe::of(before.input), before, Overwritten{x}));
    y = x;
  } else {
    y = MetaAconC<false>::apply(
        x, at::TensorList(affine), p1, p2, at::TensorList(learned), generator, dim, recipe_of_x, before,
        Overwritten{});
  }
  finish_output(y);
  return y;
}

} // namespace

c10::DeviceType& gpu_device_type() {
  static auto type = c10::DeviceType::COMPILE_TIME_MAX_DEVICE_TYPES;
  return type;
}

TORCH_LIBRARY_IMPL(acon_mm, CompositeImplicitAutograd, m) {
  // Not for torch.compile, where an operator must not choose by the type of a tensor. The module calls its layers
  // there.
  m.impl("meta_acon_c", &meta_acon_c_operator<false>);
  m.impl("meta_acon_c_", &meta_acon_c_operator<true>);
}

} // namespace acon
