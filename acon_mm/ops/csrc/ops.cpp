// The operators acon_c, acon_c_backward, channel_mean and input_and_mean, with autograd. cpu.cpp computes them,
// meta_ops.cpp has Meta-ACON's operators.
#include <ATen/ATen.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include "cpu.h"
#include "kernels.h"
#include "layout.h"

namespace acon {
namespace {

// Results without values, for torch.compile and the meta device.
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

template <typename F>
auto find_operator(const char* name) {
  return c10::Dispatcher::singleton().findSchemaOrThrow(name, "").typed<F>();
}

Tensor call_acon_c(const Tensor& x, const Tensor& p1, const Tensor& p2, const Tensor& beta, int64_t channel_dim) {
  static const auto op = find_operator<decltype(acon_c_cpu)>("acon_mm::acon_c");
  return op.call(x, p1, p2, beta, channel_dim);
}
Tensor call_channel_mean(const Tensor& x, int64_t channel_dim) {
  static const auto op = find_operator<decltype(channel_mean_cpu)>("acon_mm::channel_mean");
  return op.call(x, channel_dim);
}
Gradients call_acon_c_backward(
    const Tensor& grad_y, const Tensor& x, const Tensor& p1, const Tensor& p2, const Tensor& beta,
    int64_t channel_dim) {
  static const auto op = find_operator<decltype(acon_c_backward_cpu)>("acon_mm::acon_c_backward");
  return op.call(grad_y, x, p1, p2, beta, channel_dim);
}
Gradients call_acon_c_backward_composed(
    const Tensor& grad_y, const Tensor& x, const Tensor& p1, const Tensor& p2, const Tensor& beta,
    int64_t channel_dim) {
  static const auto op = find_operator<decltype(acon_c_backward_cpu)>("acon_mm::acon_c_backward_composed");
  return op.call(grad_y, x, p1, p2, beta, channel_dim);
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

Tensor acon_c_autograd(
    const Tensor& x, const Tensor& p1, const Tensor& p2, const Tensor& beta, int64_t channel_dim) {
  return AconCFunction::apply(x, p1, p2, beta, channel_dim);
}

Gradients acon_c_backward_autograd(
    const Tensor& grad_y, const Tensor& x, const Tensor& p1, const Tensor& p2, const Tensor& beta,
    int64_t channel_dim) {
  // With create_graph the gradient is itself differentiated, so it must be made of PyTorch's operators.
  if (at::GradMode::is_enabled()) {
    return call_acon_c_backward_composed(grad_y, x, p1, p2, beta, channel_dim);
  }
  at::AutoDispatchBelowADInplaceOrView below;
  return call_acon_c_backward(grad_y, x, p1, p2, beta, channel_dim);
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
  auto results = InputAndMean::apply(x, channel_dim);
  return {std::move(results[0]), std::move(results[1])};
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
  // The same out of PyTorch's operators, for double backward: `backward` of ops/reference.py, which ops/cpu.py
  // registers.
  m.def(
      "acon_c_backward_composed(Tensor grad_y, Tensor x, Tensor p1, Tensor p2, Tensor beta, int channel_dim) "
      "-> (Tensor grad_x, Tensor grad_p1, Tensor grad_p2, Tensor grad_beta)");
  m.def("channel_mean(Tensor x, int channel_dim=1) -> Tensor", {at::Tag::pt2_compliant_tag});
  // Not for torch.compile, where an operator must not return its input. ops/functional.py computes the mean there.
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
  m.impl("acon_c", &acon_c_autograd);
  m.impl("acon_c_backward", &acon_c_backward_autograd);
}

} // namespace acon
