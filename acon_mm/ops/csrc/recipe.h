// How to make a tensor again instead of keeping it for backward. recompute.h tells of which tensors.
#pragma once

#include <torch/csrc/autograd/custom_function.h>

namespace acon {

using at::Tensor;

// How to make a tensor again: steps that take tensors in their order, and push their result on a stack.
struct Recipe {
  enum Kind {
    take, // pushes a tensor as it is
    normalize, // the last result, by the weight, bias, mean and variance that follow; argument: eps
    normalize_by_rstd, // the same with 1/sqrt(variance + eps) in place of the variance
    activate, // the last result, by the p1, p2 and beta that follow; argument: the channel dimension
    activate_normed, // the same, after a norm with the scale and shift that come before p1
    add, // the last two results
  };
  // Two numbers a step, which autograd can save: its kind and argument.
  std::vector<double> steps;
  std::vector<Tensor> tensors;

  // Of a tensor that is kept.
  static Recipe of(const Tensor& x) {
    return {{take, 0}, {x}};
  }

  // Whether the tensor itself is kept.
  bool is_kept() const {
    return steps.size() == 2;
  }

  // This recipe with one more step.
  Recipe then(Kind kind, double argument, std::initializer_list<Tensor> with) const;

  // Of the sum of both results.
  Recipe plus(const Recipe& other) const;

  Tensor make() const;
};

// Whether tensors are saved as they are now. Hooks on saved tensors, as of checkpointing, decide themselves what is kept.
bool saves_plainly();

// Saves what an ACON needs for backward. `list` begins with a place for its input `x`, of which the tensor is saved, or
// a recipe.
void save_input(
    torch::autograd::AutogradContext& context, const Tensor& x, const Recipe& recipe,
    torch::autograd::variable_list list);

struct SavedInput {
  Recipe recipe;
  torch::autograd::variable_list list; // as it was given to save_input; at the place of x a stand-in, if x is not kept
  torch::autograd::Edge edge;

  // x, with its place in the graph if the graph is recorded.
  Tensor make() const;
};
SavedInput load_input(torch::autograd::AutogradContext& context);

} // namespace acon
