#include "recipe.h"

#include <ATen/ATen.h>
#include <ATen/core/dispatch/Dispatcher.h>

#include "compat.h"
#include "gpu.h"

namespace acon {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// The number of tensors that a step takes.
int64_t tensors_of(Recipe::Kind kind) {
  switch (kind) {
    case Recipe::take:
      return 1;
    case Recipe::add:
      return 0;
    case Recipe::activate:
      return 3;
    case Recipe::activate_normed:
      return 4;
    default:
      return 4;
  }
}

Tensor activated(const Tensor& x, const Tensor& p1, const Tensor& p2, const Tensor& beta, int64_t channel_dim) {
  using Forward = Tensor(const Tensor&, const Tensor&, const Tensor&, const Tensor&, int64_t);
  static const auto op = c10::Dispatcher::singleton().findSchemaOrThrow("acon_mm::acon_c", "").typed<Forward>();
  return op.call(x, p1, p2, beta, channel_dim);
}

// A batch norm's output, by one pass, with the bits that PyTorch has on a CPU.
Tensor normalized(
    const Tensor& x, const Tensor& weight, const Tensor& bias, const Tensor& mean, const Tensor& rstd) {
  const Tensor scale = weight.defined() ? rstd * weight : rstd;
  const Tensor shift = bias.defined() ? bias - mean * scale : -mean * scale;
  // A norm whose mean is 0 and whose variance is 1.
  return std::get<0>(at::native_batch_norm(
      x, scale, shift, at::zeros_like(scale), at::ones_like(scale), /*training=*/false, /*momentum=*/0, /*eps=*/0));
}

// Has the shape of `x` and its place in the graph, but no memory of its size.
Tensor stand_in(const Tensor& x) {
  const auto edge = torch::autograd::impl::gradient_edge(x);
  return torch::autograd::make_variable(at::empty({1}, x.options()).expand(x.sizes()), edge);
}

} // namespace

Recipe Recipe::then(Kind kind, double argument, std::initializer_list<Tensor> with) const {
  Recipe longer = *this;
  longer.steps.insert(longer.steps.end(), {static_cast<double>(kind), argument});
  longer.tensors.insert(longer.tensors.end(), with);
  return longer;
}

Recipe Recipe::plus(const Recipe& other) const {
  Recipe sum = *this;
  sum.steps.insert(sum.steps.end(), other.steps.begin(), other.steps.end());
  sum.tensors.insert(sum.tensors.end(), other.tensors.begin(), other.tensors.end());
  return sum.then(add, 0, {});
}

Tensor Recipe::make() const {
  for (const Tensor& t : tensors) {
    TORCH_CHECK(
        !t.defined() || t.numel() == 0 || t.storage().nbytes() > 0,
        "the memory of a parameter of an ACON was freed before the backward pass, or that of a norm before it, which "
        "needs it to make the ACON's output or input again, as by a wrapper that shards parameters: "
        "acon_mm.ops.memory.keep_outputs() turns that off");
  }
  at::AutoDispatchBelowADInplaceOrView below;
  variable_list results;
  auto next = tensors.begin();
  for (size_t i = 0; i < steps.size(); i += 2) {
    const auto kind = static_cast<Kind>(steps[i]);
    const double argument = steps[i + 1];
    const auto* const with = &*next;
    next += tensors_of(kind);
    switch (kind) {
      case take:
        results.push_back(with[0]);
        break;
      case add: { // both were made here, so one may be changed
        const Tensor last = std::move(results.back());
        results.pop_back();
        results.back().add_(last);
        break;
      }
      case activate:
        results.back() = activated(results.back(), with[0], with[1], with[2], static_cast<int64_t>(argument));
        break;
      case activate_normed:
        results.back() = (runs_on_gpu(results.back()) ? normed_acon_c_gpu : normed_acon_c_cpu)(
            results.back(), with[0], with[1], with[2], with[3], static_cast<int64_t>(argument));
        break;
      default:
        results.back() = normalized(
            results.back(), with[0], with[1], with[2],
            kind == normalize ? (with[3] + argument).rsqrt() : with[3]);
    }
  }
  return results.back();
}

bool saves_plainly() {
  return !has_saved_tensor_hooks();
}

void save_input(AutogradContext& context, const Tensor& x, const Recipe& recipe, variable_list list) {
  const bool plainly = saves_plainly();
  context.saved_data["saved_plainly"] = plainly;
  if (recipe.is_kept() || !plainly) {
    list[0] = x;
  } else {
    list[0] = stand_in(x);
    list.insert(list.end(), recipe.tensors.begin(), recipe.tensors.end());
    context.saved_data["steps"] = recipe.steps;
  }
  context.save_for_backward(std::move(list));
}

SavedInput load_input(AutogradContext& context) {
  variable_list list = context.get_saved_variables();
  const auto found = context.saved_data.find("steps");
  if (found == context.saved_data.end()) {
    Recipe kept = Recipe::of(list[0]);
    return {std::move(kept), std::move(list), {}};
  }
  Recipe recipe;
  recipe.steps = found->second.toDoubleVector();
  int64_t count = 0;
  for (size_t i = 0; i < recipe.steps.size(); i += 2) {
    count += tensors_of(static_cast<Recipe::Kind>(recipe.steps[i]));
  }
  recipe.tensors.assign(list.end() - count, list.end());
  list.resize(list.size() - count);
  const auto edge = torch::autograd::impl::gradient_edge(list[0]);
  return {std::move(recipe), std::move(list), edge};
}

Tensor SavedInput::make() const {
  if (recipe.is_kept()) {
    return list[0];
  }
  const Tensor x = recipe.make();
  return at::GradMode::is_enabled() ? torch::autograd::make_variable(x, edge) : x;
}

} // namespace acon
