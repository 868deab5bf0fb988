// The values of Meta-ACON's generator, by name. ops/generator.py has the same names in Python.
#pragma once

#include <ATen/ATen.h>
#include <array>

namespace acon {

using at::Tensor;

// A linear layer and its batch norm. The tensors of the norm are undefined where there is none.
struct GeneratorLayer {
  Tensor fc_weight, fc_bias, bn_weight, bn_bias;
  Tensor bn_running_mean, bn_running_var, bn_num_batches_tracked;

  std::array<Tensor, 5> norm() const {
    return {bn_weight, bn_bias, bn_running_mean, bn_running_var, bn_num_batches_tracked};
  }
};

// beta = beta_scale sigmoid(second(first(mean of x)))
struct Generator {
  GeneratorLayer first, second; // fc1 and bn1, fc2 and bn2
  bool batch_statistics; // whether the norms use the statistics of the samples and move the running ones
  double momentum, eps; // of both norms
  double beta_scale;

  bool has_norm() const {
    return first.bn_weight.defined();
  }
};

// Results of the forward pass (see Layer in kernels.h). z, mean and rstd are undefined where there is no norm.
struct GeneratorLayerOutputs {
  Tensor y, z, mean, rstd;
};
struct GeneratorOutputs {
  GeneratorLayerOutputs first, second;

  const Tensor& beta() const {
    return second.y;
  }
};

struct GeneratorLayerGradients {
  Tensor fc_weight, fc_bias, bn_weight, bn_bias;
};
struct GeneratorGradients {
  Tensor mean; // of x
  GeneratorLayerGradients first, second;
};

// Calls f for each learned tensor of a Generator, or of its GeneratorGradients. This is the one place that defines the
// order of these tensors in autograd's lists.
template <typename G, typename F>
void for_each_learned(G& generator, F f) {
  for (auto* layer : {&generator.first, &generator.second}) {
    f(layer->fc_weight);
    f(layer->fc_bias);
    f(layer->bn_weight);
    f(layer->bn_bias);
  }
}

} // namespace acon
