// A batch norm right before an ACON: both as one node of the graph, where nobody can tell.
//
// One by one, the norm keeps its input and the ACON keeps its own, which is the norm's output. As one node, only the
// norm's input is kept, and backward passes over it as often as a norm alone. The ACON writes its output over the norm's,
// as `nn.ReLU(inplace=True)` does, so somebody must allow that: this is the operator `acon_c_` (ops/operators.py).
#pragma once

#include <torch/csrc/autograd/custom_function.h>

#include "cpu.h"
#include "recipe.h"

namespace acon {

struct NormBefore {
  Tensor input; // undefined where there is no norm
  Tensor weight, bias; // undefined where the norm has none; a frozen one does not require a gradient
  Norm norm;
  double eps;

  bool defined() const {
    return input.defined();
  }

  // The weight and bias, where it has them and they are not frozen.
  torch::autograd::variable_list affine() const;

  // The recipe of its output, but for the ACON's part.
  Recipe then_activate(int64_t channel_dim, const Tensor& p1, const Tensor& p2, const Tensor& beta) const;

  // The gradients of an ACON's node: of the norm's input, of `affine()`, and `others`.
  torch::autograd::variable_list gradients(
      const NormedAconGradients& found, const torch::autograd::variable_list& others) const;

  // Its output out of PyTorch's operators.
  Tensor output() const;
};

// The norm of which `x` is the output, if it can be one node with the ACON that is called with x. It runs one by one
//
// - where the kernels of the device do not take a tensor;
// - after other layers than batch norms, and where a weight of the norm is made out of others;
// - where x was changed, or has hooks or a gradient of its own that somebody asked for;
// - where hooks decide what is saved, and where the norm's input is made again or was changed;
// - where x is small;
// - within keep_outputs().
NormBefore norm_before(const Tensor& x, const Tensor& p1, const Tensor& p2, const Tensor& beta, int64_t channel_dim);

// Stands for a tensor that autograd does not record.
struct Overwritten {
  Tensor tensor;
};

// Makes `x`, which was overwritten, what `y` is, a tensor of the same memory.
void take_history(const Tensor& x, const Tensor& y);

// Appends to what backward needs, and takes it off again. The first of the list is the norm's input.
void save_norm(torch::autograd::AutogradContext& context, torch::autograd::variable_list& list, const NormBefore& norm);
NormBefore load_norm(torch::autograd::AutogradContext& context, torch::autograd::variable_list& list);

// For double backward: the gradients of what `compute` makes of the inputs out of PyTorch's operators.
torch::autograd::variable_list composed_gradients(
    const Tensor& grad_y, const torch::autograd::variable_list& inputs, const std::function<Tensor()>& compute);

} // namespace acon
