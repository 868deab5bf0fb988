// What an ACON made is not kept for backward, but made again.
//
// A convolution keeps its input for backward. ReLU in place keeps the same tensor, so together they keep one. ACON
// keeps its own input besides, from which its output can be made again by one pass. So where the output y of an ACON was
// saved by the node of another operator, the node gets a recipe in its place: x, the parameters, and how to compute y.
//
// Nobody tells when y was saved. So the graph is searched when the next ACON is called, from its input back to the ACONs
// before it; and once more from the loss (`recompute_outputs`), for what comes after the last ACON.
#pragma once

#include <torch/csrc/autograd/custom_function.h>

#include <optional>

namespace acon {

using at::Tensor;

// How to make the output of an ACON again.
struct Recipe {
  Tensor x, p1, p2, beta;
  int64_t channel_dim;
};

// The recipe of a node's output, or none.
using RecipeOf = std::optional<Recipe> (*)(torch::autograd::Node& node);

// Makes the nodes of `type` known as those of ACONs. Returns true.
bool register_acon(const std::type_info& type, RecipeOf recipe_of);

// The same for the nodes of an autograd function, which has `recipe_of` of its context.
template <typename F>
bool register_acon() {
  using Node = torch::autograd::CppNode<F>;
  return register_acon(
      typeid(Node), [](torch::autograd::Node& node) { return F::recipe_of(static_cast<Node&>(node).ctx_); });
}

// Whether tensors are saved as they are now. Hooks on saved tensors, as of checkpointing, decide themselves what is kept.
bool saves_plainly();

// Puts recipes in place of the outputs of ACONs that the graph before `x` keeps.
void recompute_outputs_before(const Tensor& x);

} // namespace acon
