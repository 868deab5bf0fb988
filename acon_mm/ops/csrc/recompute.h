// What an ACON made is not kept for backward, but made again.
//
// A convolution keeps its input for backward. ReLU in place keeps the same tensor, so together they keep one. ACON
// keeps its own input besides, from which its output can be made again by one pass. So where the output y of an ACON was
// saved by the node of another operator, the node gets a recipe in its place: x, the parameters, and how to compute y.
//
// Nobody tells when y was saved. So the graph is searched when the next ACON is called, from its input back to the ACONs
// before it; and once more from the loss (`recompute_outputs`), for what comes after the last ACON.
//
// To keep still less, an ACON's input can be made again too (`memory='least'`): a batch norm's output from the input
// that the norm keeps, and a sum from its two summands.
#pragma once

#include <optional>

#include "recipe.h"

namespace acon {

// What is known of the nodes of an ACON: what they saved, and the recipe of their output, if there is one.
struct AconNode {
  torch::autograd::AutogradContext& (*context)(torch::autograd::Node& node);
  std::optional<Recipe> (*recipe)(torch::autograd::AutogradContext& context);
  int64_t version; // of the output as the ACON made it
};

// Makes the nodes of `type` known as those of ACONs. Returns true.
bool register_acon(const std::type_info& type, const AconNode& acon);

// The same for the nodes of an autograd function, which has `recipe_of` of its context.
template <typename F>
bool register_acon(int64_t version = 0) {
  using torch::autograd::Node;
  using Own = torch::autograd::CppNode<F>;
  return register_acon(
      typeid(Own), {[](Node& node) -> torch::autograd::AutogradContext& { return static_cast<Own&>(node).ctx_; },
                    F::recipe_of, version});
}

// Whether anything is made again.
bool recomputes();

// Smaller tensors are kept: to make them again costs more than it saves.
bool is_worth_it(const Tensor& x);

// What is saved, if no hooks stand for it.
template <typename Saved>
auto kept_as_it_is(const Saved& saved, int) -> decltype(saved.get_raw_data()) {
  return saved.get_raw_data();
}
// A PyTorch without that function does not tell, so nothing is recomputed.
template <typename Saved>
std::optional<Tensor> kept_as_it_is(const Saved&, long) {
  return std::nullopt;
}

// What the node of a batch norm keeps.
struct NormNode {
  const torch::autograd::SavedVariable& saved_input;
  Tensor input, weight; // the weight may be undefined
  Tensor mean, variance; // in training, those of the input, the variance as 1/std; otherwise the running statistics
  bool training;
  double eps;
};
// None for other nodes, and where hooks stand for what it keeps.
std::optional<NormNode> norm_node(const torch::autograd::Node& node);

// The parameter of a layer at an input of its node; undefined where it has none. None where it is frozen, so that the
// node does not know it, or computed, so that it may be freed.
std::optional<Tensor> parameter_of(const torch::autograd::Node& node, size_t input, bool has_one);

// Puts recipes in place of the outputs of ACONs that the graph before `x` keeps. Returns what the ACON shall keep of x.
Recipe prepare_input(const Tensor& x);

// Marks `y`, which an ACON made, so that a sum can be made again out of it.
void finish_output(const Tensor& y);

} // namespace acon
