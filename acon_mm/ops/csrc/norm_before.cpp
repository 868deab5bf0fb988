#include "norm_before.h"

#include <ATen/TensorSubclassLikeUtils.h>
#include <torch/csrc/autograd/autograd.h>

#include "gpu.h"
#include "layout.h"
#include "recompute.h"

namespace acon {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// The tensors that are saved besides the norm's input.
constexpr size_t kSaved = 4;

// Whether the kernels of x's device take the tensors.
bool is_served(const Tensor& x, const Tensor& p1, const Tensor& p2, const Tensor& beta) {
  if (runs_on_gpu(x)) {
    return gpu_serves(x, p1, p2, beta, 1) && p1.dim() == 1 && p2.dim() == 1 && beta.dim() == 1;
  }
  return x.is_cpu() && cpu_serves(x, p1, p2, beta);
}

// Whether the gradient of x itself may be asked for.
bool has_own_gradient(const Tensor& x) {
  return x.retains_grad() || !torch::autograd::impl::hooks(x).empty() || x._fw_grad(0).defined();
}

// The shift of a norm whose bias is frozen, which its node does not keep: z - scale u, of a few elements the one where the
// least is rounded.
Tensor shift_of(const Tensor& z, const Tensor& u, const Tensor& scale) {
  const auto few = [](const Tensor& t) { // (C, few)
    return t[0].flatten(1).slice(1, 0, 64);
  };
  const Tensor scaled = few(u).to(scale.scalar_type()) * scale.unsqueeze(1);
  const Tensor at = std::get<1>(scaled.abs().min(1, /*keepdim=*/true));
  return (few(z).to(scale.scalar_type()) - scaled).gather(1, at).squeeze(1);
}

} // namespace

NormBefore norm_before(const Tensor& x, const Tensor& p1, const Tensor& p2, const Tensor& beta, int64_t channel_dim) {
  const auto root = x.grad_fn();
  if (!root || !recomputes() || !at::GradMode::is_enabled() || at::isTensorSubclassLike(x)) {
    return {};
  }
  const bool plain = x.output_nr() == 0 && x._version() == 0 && !x.is_view() && !has_own_gradient(x) &&
      root->pre_hooks().empty() && root->tensor_pre_hooks().empty() && root->post_hooks().empty() && saves_plainly();
  if (!plain || !is_worth_it(x) || channel_dim != 1 || !is_served(x, p1, p2, beta)) {
    return {};
  }
  const auto node = norm_node(*root);
  if (!node || node->input.scalar_type() != x.scalar_type() || node->input.strides() != x.strides() ||
      !(x.is_contiguous() || is_channels_last(x, 1))) {
    return {};
  }
  const bool has_weight = node->weight.defined();
  const auto is_frozen = [&](size_t input) { return !root->next_edge(input).function; };
  const auto weight = is_frozen(1) ? node->weight : parameter_of(*root, 1, has_weight);
  const auto bias = is_frozen(2) ? Tensor() : parameter_of(*root, 2, has_weight);
  if (!weight || !bias) {
    return {};
  }
  NormBefore before{{}, *weight, *bias, {}, node->eps};
  try {
    before.input = node->saved_input.unpack();
  } catch (const c10::Error&) { // it was changed, which the norm's own backward will say
    return {};
  }
  at::AutoDispatchBelowADInplaceOrView below;
  Norm& norm = before.norm;
  norm.batch_statistics = node->training;
  norm.values = (runs_on_gpu(x) ? norm_values_gpu : norm_values_cpu)(
      x, {node->mean, node->variance, node->training, node->eps, *weight, *bias});
  if (has_weight && !bias->defined()) {
    norm[Norm::shift].copy_(shift_of(x, node->input, norm[Norm::scale]));
    before.bias = norm[Norm::shift] + norm[Norm::mean] * norm[Norm::scale];
  }
  return before;
}

variable_list NormBefore::affine() const {
  variable_list list;
  for (const Tensor& t : {weight, bias}) {
    if (t.defined() && t.requires_grad()) {
      list.push_back(t);
    }
  }
  return list;
}

void take_history(const Tensor& x, const Tensor& y) {
  torch::autograd::impl::bump_version(x);
  torch::autograd::impl::set_gradient_edge(x, torch::autograd::impl::gradient_edge(y));
}

Recipe NormBefore::then_activate(
    int64_t channel_dim, const Tensor& p1, const Tensor& p2, const Tensor& beta) const {
  return Recipe::of(input).then(
      Recipe::activate_normed, static_cast<double>(channel_dim), {norm.values, p1, p2, beta});
}

variable_list NormBefore::gradients(const NormedAconGradients& found, const variable_list& others) const {
  variable_list list = {found.u};
  if (weight.defined() && weight.requires_grad()) {
    list.push_back(found.weight.to(weight.scalar_type()));
  }
  if (bias.defined() && bias.requires_grad()) {
    list.push_back(found.bias.to(bias.scalar_type()));
  }
  list.insert(list.end(), others.begin(), others.end());
  return list;
}

Tensor NormBefore::output() const {
  if (norm.batch_statistics) {
    return std::get<0>(at::native_batch_norm(input, weight, bias, {}, {}, /*training=*/true, /*momentum=*/0, eps));
  }
  std::vector<int64_t> shape(input.dim(), 1);
  shape[1] = input.size(1);
  const Tensor z = (input - norm[Norm::mean].view(shape)) * norm[Norm::rstd].view(shape);
  return (weight.defined() ? z * weight.view(shape) + bias.view(shape) : z).to(input.scalar_type());
}

variable_list composed_gradients(
    const Tensor& grad_y, const variable_list& inputs, const std::function<Tensor()>& compute) {
  const bool create_graph = at::GradMode::is_enabled();
  at::AutoGradMode recording(true);
  variable_list wanted, result;
  for (const Tensor& t : inputs) {
    if (t.requires_grad()) {
      wanted.push_back(t);
    }
  }
  const variable_list found = torch::autograd::grad({compute()}, wanted, {grad_y}, create_graph, create_graph);
  auto next = found.begin();
  for (const Tensor& t : inputs) {
    result.push_back(t.requires_grad() ? *next++ : Tensor());
  }
  return result;
}

void save_norm(AutogradContext& context, variable_list& list, const NormBefore& before) {
  context.saved_data["norm_before"] = before.defined();
  if (before.defined()) {
    context.saved_data["norm_eps"] = before.eps;
    context.saved_data["norm_batch_statistics"] = before.norm.batch_statistics;
    list.insert(list.end(), {before.weight, before.bias, before.norm.values, before.norm.mean_of_samples});
  }
}

NormBefore load_norm(AutogradContext& context, variable_list& list) {
  if (!context.saved_data["norm_before"].toBool()) {
    return {};
  }
  NormBefore before;
  before.input = list.front();
  before.eps = context.saved_data["norm_eps"].toDouble();
  Norm& norm = before.norm;
  norm.batch_statistics = context.saved_data["norm_batch_statistics"].toBool();
  auto next = list.end() - kSaved;
  for (Tensor* t : {&before.weight, &before.bias, &norm.values, &norm.mean_of_samples}) {
    *t = *next++;
  }
  list.resize(list.size() - kSaved);
  return before;
}

} // namespace acon
