// The operators on CPUs and GPUs, with autograd. ops/operators.py declares them, and says what other devices do.
// meta_ops.cpp has Meta-ACON's operator.
#include <ATen/ATen.h>
#include <ATen/TensorSubclassLikeUtils.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include "cpu.h"
#include "gpu.h"
#include "kernels.h"
#include "layout.h"
#include "norm_before.h"
#include "recompute.h"

namespace acon {
namespace {

// What somebody may call: PyTorch chooses the implementation by device.
template <typename F>
auto find_operator(const char* name) {
  return c10::Dispatcher::singleton().findSchemaOrThrow(name, "").typed<F>();
}
using Forward = Tensor(const Tensor&, const Tensor&, const Tensor&, const Tensor&, int64_t);
using Backward =
    Gradients(const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&, int64_t, Mask);

Tensor call_acon_c(const Tensor& x, const Tensor& p1, const Tensor& p2, const Tensor& beta, int64_t channel_dim) {
  static const auto op = find_operator<Forward>("acon_mm::acon_c");
  return op.call(x, p1, p2, beta, channel_dim);
}
Gradients call_acon_c_backward(
    const Tensor& grad_y, const Tensor& x, const Tensor& p1, const Tensor& p2, const Tensor& beta,
    int64_t channel_dim, Mask output_mask) {
  static const auto op = find_operator<Backward>("acon_mm::acon_c_backward");
  return op.call(grad_y, x, p1, p2, beta, channel_dim, output_mask);
}
Tensor call_channel_mean(const Tensor& x, int64_t channel_dim) {
  static const auto op = find_operator<Tensor(const Tensor&, int64_t)>("acon_mm::channel_mean");
  return op.call(x, channel_dim);
}
// The formula in PyTorch's operators.
Tensor reference_acon_c(
    const Tensor& x, const Tensor& p1, const Tensor& p2, const Tensor& beta, int64_t channel_dim) {
  static const auto op = find_operator<Forward>("acon_mm::acon_c_reference");
  return op.call(x, p1, p2, beta, channel_dim);
}
Gradients reference_acon_c_backward(
    const Tensor& grad_y, const Tensor& x, const Tensor& p1, const Tensor& p2, const Tensor& beta,
    int64_t channel_dim, Mask output_mask) {
  static const auto op = find_operator<Backward>("acon_mm::acon_c_backward_reference");
  return op.call(grad_y, x, p1, p2, beta, channel_dim, output_mask);
}

namespace on_cpu {

Tensor acon_c(const Tensor& x, const Tensor& p1, const Tensor& p2, const Tensor& beta, int64_t channel_dim) {
  const int64_t dim = check_arguments(x, p1, p2, beta, channel_dim);
  return cpu_serves(x, p1, p2, beta) ? acon_c_cpu(x, p1, p2, beta, dim) : reference_acon_c(x, p1, p2, beta, dim);
}
Gradients acon_c_backward(
    const Tensor& grad_y, const Tensor& x, const Tensor& p1, const Tensor& p2, const Tensor& beta,
    int64_t channel_dim, Mask output_mask) {
  const int64_t dim = check_arguments(x, p1, p2, beta, channel_dim);
  check_gradient(grad_y, x);
  return cpu_serves(x, p1, p2, beta) ? acon_c_backward_cpu(grad_y, x, p1, p2, beta, dim, output_mask)
                                     : reference_acon_c_backward(grad_y, x, p1, p2, beta, dim, output_mask);
}
Tensor channel_mean(const Tensor& x, int64_t channel_dim) {
  return channel_mean_cpu(x, check_input(x, channel_dim));
}

} // namespace on_cpu

namespace on_gpu {

Tensor acon_c(const Tensor& x, const Tensor& p1, const Tensor& p2, const Tensor& beta, int64_t channel_dim) {
  const int64_t dim = check_arguments(x, p1, p2, beta, channel_dim);
  const bool serves = gpu_serves(x, p1, p2, beta, dim);
  return (serves ? acon_c_gpu : reference_acon_c)(x, p1, p2, beta, dim);
}
Gradients acon_c_backward(
    const Tensor& grad_y, const Tensor& x, const Tensor& p1, const Tensor& p2, const Tensor& beta,
    int64_t channel_dim, Mask output_mask) {
  const int64_t dim = check_arguments(x, p1, p2, beta, channel_dim);
  check_gradient(grad_y, x);
  const bool serves = gpu_serves(x, p1, p2, beta, dim);
  return (serves ? acon_c_backward_gpu : reference_acon_c_backward)(grad_y, x, p1, p2, beta, dim, output_mask);
}
Tensor channel_mean(const Tensor& x, int64_t channel_dim) {
  const int64_t dim = check_input(x, channel_dim);
  if (gpu_serves(x, dim)) {
    return channel_mean_gpu(x, dim);
  }
  std::vector<int64_t> space;
  for (int64_t d = 1; d < x.dim(); ++d) {
    if (d != dim) {
      space.push_back(d);
    }
  }
  return space.empty() ? x.to(compute_type(x)) : x.mean(space, false, compute_type(x));
}

} // namespace on_gpu

// Results without values, for torch.compile and the meta device.
namespace on_meta {

Tensor acon_c(const Tensor& x, const Tensor& p1, const Tensor& p2, const Tensor& beta, int64_t channel_dim) {
  check_arguments(x, p1, p2, beta, channel_dim);
  return like(x);
}
Gradients acon_c_backward(
    const Tensor& grad_y, const Tensor& x, const Tensor& p1, const Tensor& p2, const Tensor& beta,
    int64_t channel_dim, Mask output_mask) {
  check_arguments(x, p1, p2, beta, channel_dim);
  check_gradient(grad_y, x);
  const auto of = [&](int i, const Tensor& t) {
    return output_mask[i] ? at::empty_like(t, at::MemoryFormat::Contiguous) : Tensor();
  };
  return {output_mask[0] ? like(x) : Tensor(), of(1, p1), of(2, p2), of(3, beta)};
}
Tensor channel_mean(const Tensor& x, int64_t channel_dim) {
  const int64_t dim = check_input(x, channel_dim);
  return at::empty_symint({x.sym_size(0), x.sym_size(dim)}, x.options().dtype(compute_type(x)));
}

} // namespace on_meta

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct AconCFunction : torch::autograd::Function<AconCFunction> {
  static constexpr bool is_traceable = true;

  static Tensor forward(
      AutogradContext* context, const Tensor& x, const Tensor& p1, const Tensor& p2, const Tensor& beta,
      int64_t channel_dim, const Recipe& recipe_of_x) {
    at::AutoDispatchBelowADInplaceOrView below;
    save_input(*context, x, recipe_of_x, {Tensor(), p1, p2, beta});
    context->saved_data["channel_dim"] = channel_dim;
    return call_acon_c(x, p1, p2, beta, channel_dim);
  }

  static std::optional<Recipe> recipe_of(AutogradContext& context) {
    if (!context.saved_data["saved_plainly"].toBool()) {
      return std::nullopt;
    }
    const SavedInput in = load_input(context);
    const auto dim = static_cast<double>(context.saved_data["channel_dim"].toInt());
    return in.recipe.then(Recipe::activate, dim, {in.list[1], in.list[2], in.list[3]});
  }

  // `grads` is a reference, because a copy of the list would own its tensors too.
  static variable_list backward(AutogradContext* context, variable_list& grads) {
    const SavedInput in = load_input(*context);
    const int64_t channel_dim = context->saved_data["channel_dim"].toInt();
    Mask mask;
    for (size_t i = 0; i < mask.size(); ++i) {
      mask[i] = context->needs_input_grad(i);
    }
    const Tensor made = in.make();
    const Tensor &p1 = in.list[1], &p2 = in.list[2], &beta = in.list[3];
    const bool on_cpu = made.is_cpu() && !runs_on_gpu(made) && cpu_serves(made, p1, p2, beta);
    auto [x, of_p1, of_p2, of_beta] = on_cpu && is_ours(grads[0])
        ? acon_c_backward_cpu(
              std::move(grads[0]), made, p1, p2, beta, at::maybe_wrap_dim(channel_dim, made.dim()), mask)
        : call_acon_c_backward(grads[0], made, p1, p2, beta, channel_dim, mask);
    return {std::move(x), std::move(of_p1), std::move(of_p2), std::move(of_beta), Tensor(), Tensor()};
  }
};

const bool acon_c_is_known = register_acon<AconCFunction>();

// The same with the norm before, of whose input the gradient is computed.
struct NormedAconCFunction : torch::autograd::Function<NormedAconCFunction> {
  // Autograd records the norm's input and parameters, p1, p2 and beta. The norm's output `z` is overwritten.
  static Tensor forward(
      AutogradContext* context, const Tensor& input, at::TensorList /* affine */, const Tensor& p1, const Tensor& p2,
      const Tensor& beta, const NormBefore& before, const Overwritten& z) {
    at::AutoDispatchBelowADInplaceOrView below;
    variable_list list = {input, p1, p2, beta};
    save_norm(*context, list, before);
    context->save_for_backward(std::move(list));
    (runs_on_gpu(input) ? acon_c_gpu_ : acon_c_cpu_)(z.tensor, p1, p2, beta, 1);
    return z.tensor.alias();
  }

  static std::optional<Recipe> recipe_of(AutogradContext& context) {
    variable_list list = context.get_saved_variables();
    return load_norm(context, list).then_activate(1, list[1], list[2], list[3]);
  }

  static variable_list backward(AutogradContext* context, variable_list& grads) {
    variable_list list = context->get_saved_variables();
    const NormBefore before = load_norm(*context, list);
    const Tensor &p1 = list[1], &p2 = list[2], &beta = list[3];
    if (at::GradMode::is_enabled() || at::isTensorSubclassLike(grads[0])) {
      variable_list inputs = before.affine();
      inputs.insert(inputs.begin(), before.input);
      inputs.insert(inputs.end(), {p1, p2, beta});
      variable_list result =
          composed_gradients(grads[0], inputs, [&] { return call_acon_c(before.output(), p1, p2, beta, 1); });
      result.resize(result.size() + 2);
      return result;
    }
    check_gradient(grads[0], before.input);
    const auto grad = runs_on_gpu(before.input)
        ? normed_acon_c_backward_gpu(std::move(grads[0]), before.input, before.norm, p1, p2, beta, 1)
        : normed_acon_c_backward_cpu(std::move(grads[0]), before.input, before.norm, p1, p2, beta, 1);
    variable_list result = before.gradients(grad, {grad.p1, grad.p2, grad.beta});
    result.resize(result.size() + 2); // `before` and `z` have no gradient
    return result;
  }
};

const bool normed_acon_c_is_known = register_acon<NormedAconCFunction>(/*version=*/1);

Tensor acon_c_by_itself(
    const Tensor& x, const Tensor& p1, const Tensor& p2, const Tensor& beta, int64_t channel_dim,
    const Recipe& recipe_of_x) {
  const Tensor y = AconCFunction::apply(x, p1, p2, beta, channel_dim, recipe_of_x);
  finish_output(y);
  return y;
}

Tensor acon_c_autograd(
    const Tensor& x, const Tensor& p1, const Tensor& p2, const Tensor& beta, int64_t channel_dim) {
  return acon_c_by_itself(x, p1, p2, beta, channel_dim, prepare_input(x));
}

// May overwrite x, and then returns x.
Tensor acon_c_autograd_(
    const Tensor& x, const Tensor& p1, const Tensor& p2, const Tensor& beta, int64_t channel_dim) {
  check_arguments(x, p1, p2, beta, channel_dim);
  const Recipe recipe_of_x = prepare_input(x);
  const NormBefore before = norm_before(x, p1, p2, beta, channel_dim);
  if (!before.defined()) {
    return acon_c_by_itself(x, p1, p2, beta, channel_dim, recipe_of_x);
  }
  const variable_list affine = before.affine();
  take_history(
      x, NormedAconCFunction::apply(
             before.input, at::TensorList(affine), p1, p2, beta, before, Overwritten{x}));
  finish_output(x);
  return x;
}

Gradients acon_c_backward_autograd(
    const Tensor& grad_y, const Tensor& x, const Tensor& p1, const Tensor& p2, const Tensor& beta,
    int64_t channel_dim, Mask output_mask) {
  // With create_graph the gradient is itself differentiated, so it must be made of PyTorch's operators.
  if (at::GradMode::is_enabled()) {
    return reference_acon_c_backward(grad_y, x, p1, p2, beta, channel_dim, output_mask);
  }
  at::AutoDispatchBelowADInplaceOrView below;
  return call_acon_c_backward(grad_y, x, p1, p2, beta, channel_dim, output_mask);
}

// x itself and its mean, as one node of the graph. The backward of this node has both gradients, so it can add the
// mean's to the other one in place. With two nodes, autograd would add them in a new tensor of the size of x.
struct InputAndMean : torch::autograd::Function<InputAndMean> {
  static variable_list forward(AutogradContext* context, const Tensor& x, int64_t channel_dim) {
    at::AutoDispatchBelowADInplaceOrView below;
    context->set_materialize_grads(false);
    context->saved_data["channel_dim"] = channel_dim;
    context->saved_data["sizes"] = x.sizes();
    return {x, call_channel_mean(x, channel_dim)};
  }

  // `grads` is a reference, because a copy of the list would own its tensors too.
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
  check_input(x, channel_dim);
  auto results = InputAndMean::apply(x, channel_dim);
  return {std::move(results[0]), std::move(results[1])};
}

std::string cpu_kernels() {
  return table().name;
}

// From now on, the GPU's kernels serve devices of this type.
void use_gpu_kernels(std::string device_type) {
  static std::vector<torch::Library> registrations;
  const auto key = c10::computeDispatchKey({}, {}, c10::Device(device_type));
  torch::Library library(torch::Library::IMPL, "acon_mm", key, __FILE__, __LINE__);
  library.impl("acon_c", &on_gpu::acon_c);
  library.impl("acon_c_backward", &on_gpu::acon_c_backward);
  library.impl("channel_mean", &on_gpu::channel_mean);
  registrations.push_back(std::move(library));
  gpu_device_type() = c10::Device(device_type).type();
}

} // namespace

TORCH_LIBRARY_FRAGMENT(acon_mm, m) {
  // Not for torch.compile, where an operator must not return its input. ops/functional.py computes the mean there.
  m.def("input_and_mean(Tensor(a) x, int channel_dim=1) -> (Tensor(a) x, Tensor mean)", &input_and_mean);
  m.def("cpu_kernels() -> str", &cpu_kernels);
  m.def("use_gpu_kernels(str device_type) -> ()", &use_gpu_kernels);
}

TORCH_LIBRARY_IMPL(acon_mm, CPU, m) {
  m.impl("acon_c", &on_cpu::acon_c);
  m.impl("acon_c_backward", &on_cpu::acon_c_backward);
  m.impl("channel_mean", &on_cpu::channel_mean);
}

TORCH_LIBRARY_IMPL(acon_mm, Meta, m) {
  m.impl("acon_c", &on_meta::acon_c);
  m.impl("acon_c_backward", &on_meta::acon_c_backward);
  m.impl("channel_mean", &on_meta::channel_mean);
}

TORCH_LIBRARY_IMPL(acon_mm, Autograd, m) {
  m.impl("acon_c", &acon_c_autograd);
  m.impl("acon_c_", &acon_c_autograd_);
  m.impl("acon_c_backward", &acon_c_backward_autograd);
}

} // namespace acon
