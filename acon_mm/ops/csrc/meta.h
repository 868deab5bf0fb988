// Meta-ACON-C in one call, without autograd, on each device. meta_ops.cpp makes an operator of it.
#pragma once

#include "cpu.h"

namespace acon {

struct MetaInputs {
  Tensor x, p1, p2;
  Generator generator;
  int64_t channel_dim;
};

struct MetaResult {
  Tensor y;
  std::vector<Tensor> kept; // what backward needs besides the inputs
};

struct MetaGradients {
  Tensor x, p1, p2;
  GeneratorGradients generator; // without the mean's
};

struct NormStatistics {
  Tensor mean, rstd;
};

struct MetaKernels {
  MetaResult (*forward)(const MetaInputs& inputs);
  // The gradient of x may take the memory of `grad_y` where that is ours.
  MetaGradients (*backward)(Tensor grad_y, const MetaInputs& inputs, const std::vector<Tensor>& kept);
  // What the generator computed, (N, C).
  Tensor (*beta)(const MetaInputs& inputs, const std::vector<Tensor>& kept);
  // What bn1 and bn2 subtracted and multiplied with in forward.
  std::array<NormStatistics, 2> (*statistics)(const MetaInputs& inputs, const std::vector<Tensor>& kept);

  // With a norm before. `inputs.x` is the norm's input; `z`, its output, is overwritten by the result.
  MetaResult (*forward_after_norm)(const MetaInputs& inputs, Norm& norm, const Tensor& z);
  NormedAconGradients (*backward_after_norm)(
      Tensor grad_y, const MetaInputs& inputs, const std::vector<Tensor>& kept, const Norm& norm,
      GeneratorGradients& of_generator);
};

extern const MetaKernels meta_cpu; // in cpu_meta.cpp
extern const MetaKernels meta_gpu; // in gpu_meta.cpp

} // namespace acon
