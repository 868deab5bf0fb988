// Meta-ACON's generator on a CPU, without autograd. The loops are in generator_loops.h.
#include <ATen/Parallel.h>

#include "cpu.h"
#include "kernels.h"
#include "layout.h"

namespace acon {
namespace {

// The number of weights that is worth a thread.
constexpr int64_t kLayerGrain = 65536;

template <typename A>
const LayerKernels<A>& layer_kernels() {
  if constexpr (std::is_same_v<A, float>) {
    return table().layer32;
  } else {
    return table().layer64;
  }
}

// A layer cut into blocks of outputs. As in layout.h, their size does not depend on the number of threads.
template <typename A>
struct LayerBlocks {
  Layer<A> layer;
  int64_t outputs, blocks;

  explicit LayerBlocks(const Layer<A>& layer)
      : layer(layer),
        outputs(std::max<int64_t>(1, kLayerGrain / std::max<int64_t>(layer.in, 1))),
        blocks((layer.out + outputs - 1) / outputs) {}

  // Calls f(block, first output, end).
  template <typename F>
  void for_each(F f) const {
    at::parallel_for(0, blocks, 1, [&](int64_t begin, int64_t end) {
      for (int64_t block = begin; block < end; ++block) {
        f(block, block * outputs, std::min((block + 1) * outputs, layer.out));
      }
    });
  }
};

// Calls `f` with a value of the dtype of `x`, which is that of all tensors of the generator.
template <typename F>
void dispatch(const Tensor& x, F f) {
  if (x.scalar_type() == at::kDouble) {
    f(double());
  } else {
    f(float());
  }
}

// One layer, its input, and its options.
struct Call {
  const Tensor& x;
  const GeneratorLayer& layer;
  const Generator& generator;
  double sigmoid_scale; // 0 where no sigmoid follows

  int64_t samples() const {
    return x.size(0);
  }
  int64_t in() const {
    return x.size(1);
  }
  int64_t out() const {
    return layer.fc_weight.size(0);
  }
  Tensor empty(at::IntArrayRef sizes) const {
    return at::empty(sizes, x.options());
  }

  template <typename A>
  LayerBlocks<A> blocks(const GeneratorLayerOutputs& outputs) const {
    Layer<A> to;
    to.samples = samples(), to.in = in(), to.out = out();
    to.x = const_data<A>(x);
    to.weight = const_data<A>(layer.fc_weight), to.bias = const_data<A>(layer.fc_bias);
    to.norm_weight = const_data<A>(layer.bn_weight), to.norm_bias = const_data<A>(layer.bn_bias);
    to.batch_statistics = generator.batch_statistics;
    to.running_mean = data<A>(layer.bn_running_mean), to.running_var = data<A>(layer.bn_running_var);
    to.momentum = generator.momentum, to.eps = generator.eps, to.scale = sigmoid_scale;
    to.y = data<A>(outputs.y), to.z = data<A>(outputs.z);
    to.mean = data<A>(outputs.mean), to.rstd = data<A>(outputs.rstd);
    return LayerBlocks<A>(to);
  }
};

Call first_layer(const Tensor& mean, const Generator& generator) {
  return {mean, generator.first, generator, 0};
}
Call second_layer(const GeneratorLayerOutputs& first, const Generator& generator) {
  return {first.y, generator.second, generator, generator.beta_scale};
}

GeneratorLayerOutputs forward(const Call& call) {
  GeneratorLayerOutputs outputs{call.empty({call.samples(), call.out()}), {}, {}, {}};
  if (call.generator.has_norm()) {
    outputs.z = at::empty_like(outputs.y);
    outputs.mean = call.empty({call.out()}), outputs.rstd = call.empty({call.out()});
  }
  dispatch(call.x, [&](auto element) {
    using A = decltype(element);
    const auto blocks = call.blocks<A>(outputs);
    blocks.for_each([&](int64_t, int64_t begin, int64_t end) { layer_kernels<A>().forward(blocks.layer, begin, end); });
  });
  if (call.generator.has_norm() && call.generator.batch_statistics) {
    *call.layer.bn_num_batches_tracked.data_ptr<int64_t>() += 1;
  }
  return outputs;
}

// Sets `to`, and returns the gradient of x.
Tensor backward(
    const Call& call, const Tensor& grad_y, const GeneratorLayerOutputs& outputs, GeneratorLayerGradients& to) {
  to.fc_weight = call.empty(call.layer.fc_weight.sizes());
  to.fc_bias = call.empty({call.out()});
  if (call.generator.has_norm()) {
    to.bn_weight = call.empty({call.out()}), to.bn_bias = call.empty({call.out()});
  }
  const Tensor grad_z = call.empty({call.samples(), call.out()});
  Tensor grad_x;
  dispatch(call.x, [&](auto element) {
    using A = decltype(element);
    const auto blocks = call.blocks<A>(outputs);
    // Each block has its own sum.
    grad_x = at::zeros({blocks.blocks, call.samples(), call.in()}, call.x.options());
    blocks.for_each([&](int64_t block, int64_t begin, int64_t end) {
      LayerGradients<A> grad;
      grad.y = const_data<A>(grad_y), grad.z = data<A>(grad_z);
      grad.x = data<A>(grad_x) + block * call.samples() * call.in();
      grad.weight = data<A>(to.fc_weight), grad.bias = data<A>(to.fc_bias);
      grad.norm_weight = data<A>(to.bn_weight), grad.norm_bias = data<A>(to.bn_bias);
      layer_kernels<A>().backward(blocks.layer, grad, begin, end);
    });
  });
  return grad_x.size(0) == 1 ? grad_x.squeeze(0) : grad_x.sum(0);
}

} // namespace

GeneratorOutputs generator_cpu(const Tensor& mean, const Generator& generator) {
  GeneratorOutputs outputs;
  outputs.first = forward(first_layer(mean, generator));
  outputs.second = forward(second_layer(outputs.first, generator));
  return outputs;
}

GeneratorGradients generator_backward_cpu(
    const Tensor& grad_beta, const Tensor& mean, const Generator& generator, const GeneratorOutputs& outputs) {
  GeneratorGradients grad;
  const Tensor grad_first = backward(second_layer(outputs.first, generator), grad_beta, outputs.second, grad.second);
  grad.mean = backward(first_layer(mean, generator), grad_first, outputs.first, grad.first);
  return grad;
}

} // namespace acon
