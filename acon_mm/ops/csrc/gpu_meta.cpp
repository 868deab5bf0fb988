// Meta-ACON-C on a GPU: four launches forward, six backward, for any number of samples. The kernels are in
// ops/gpu_kernels.
#include "gpu.h"
#include "layout.h"
#include "meta.h"

namespace acon {
namespace {

// Elements of a tile of products that a warp computes.
constexpr int64_t kProducts = 1024;

// The intermediate results of the generator, in one tensor: an allocation costs as much as a launch.
struct Workspace {
  struct Layer {
    int64_t outputs, y, z, mean, rstd; // places
  };
  int64_t samples, parts, sums; // the sums of x, (samples, parts, C)
  Layer first, second;
  int64_t size = 0;

  Workspace(int64_t samples, int64_t channels, int64_t hidden) : samples(samples) {
    first = layer(hidden), second = layer(channels);
  }

 private:
  int64_t take(int64_t count) {
    const int64_t place = size;
    size += (count + 3) / 4 * 4; // words of 16 bytes
    return place;
  }
  Layer layer(int64_t outputs) {
    Layer result{outputs};
    result.y = take(samples * outputs), result.z = take(samples * outputs);
    result.mean = take(outputs), result.rstd = take(outputs);
    return result;
  }
};

// As in ops/gpu_kernels/generator.py.
int norm_kind(const Generator& generator) {
  return !generator.has_norm() ? 0 : generator.batch_statistics ? 2 : 1;
}

// A tile of samples, outputs and inputs, with enough programs for a GPU.
struct Tile {
  int64_t samples, outputs, inputs;
  int warps;

  Tile(int64_t sample_count, int64_t output_count, int64_t input_count) {
    samples = std::min<int64_t>(power_of_two(sample_count), 64);
    warps = samples > 32 ? 16 : 8; // many samples are many steps, one after the other
    outputs = std::min<int64_t>(power_of_two(quotient(output_count, 128)), 16);
    inputs = std::min<int64_t>(power_of_two(input_count), warps * kProducts / (samples * outputs));
  }
};

struct LayerCall {
  const GeneratorLayer& layer;
  const Workspace::Layer& place;
  int64_t inputs;
  Tile tile;
  const float* x;
  int64_t x_parts;
  double x_scale;
  bool sigmoid;
};

struct Calls {
  LayerCall first, second;

  Calls(const MetaInputs& in, const Workspace& space, const float* work, const GpuWalk::Sums& sums, int64_t area)
      : first{
            in.generator.first, space.first, space.second.outputs,
            Tile(space.samples, space.first.outputs, space.second.outputs), const_data<float>(sums.values),
            sums.parts, 1.0 / static_cast<double>(area), false},
        second{
            in.generator.second, space.second, space.first.outputs,
            Tile(space.samples, space.second.outputs, space.first.outputs), work + space.first.y, 1, 1.0, true} {}
};

Workspace workspace(const MetaInputs& in) {
  return Workspace(in.x.size(0), in.x.size(in.channel_dim), in.generator.first.fc_weight.size(0));
}

void layer_forward(const LayerCall& call, const MetaInputs& in, float* work) {
  const GeneratorLayer& layer = call.layer;
  Launch launch("layer_forward", in.x);
  launch.pointer(call.x).pointer(layer.fc_weight).pointer(layer.fc_bias);
  launch.pointer(layer.bn_weight).pointer(layer.bn_bias);
  launch.output(layer.bn_running_mean).output(layer.bn_running_var).output(layer.bn_num_batches_tracked);
  launch.pointer(work + call.place.y).pointer(work + call.place.z);
  launch.pointer(work + call.place.mean).pointer(work + call.place.rstd);
  launch.integer(in.x.size(0)).integer(call.inputs).integer(call.place.outputs);
  launch.real(call.x_scale).real(in.generator.momentum).real(in.generator.eps).real(in.generator.beta_scale);
  launch.constant(call.tile.samples).constant(call.tile.outputs).constant(call.tile.inputs);
  launch.constant(in.x.size(0) <= call.tile.samples).constant(call.x_parts);
  launch.constant(norm_kind(in.generator)).constant(call.sigmoid);
  launch.run(quotient(call.place.outputs, call.tile.outputs), call.tile.warps);
}

GpuParameters parameters(const MetaInputs& in, const Workspace& space, const float* work) {
  return {in.p1, in.p2, GpuParameter(work + space.second.y, space.second.outputs)};
}

// Of the walkable `x`. Writes the result to `y`, which may be x.
MetaResult forward_of(const Tensor& x, const MetaInputs& in, const Tensor& y) {
  const c10::DeviceGuard guard(x.device());
  const GpuWalk walk(x, in.channel_dim, true);
  const auto sums = walk.sum();
  const Workspace space = workspace(in);
  const Tensor work = at::empty({space.size}, in.p1.options());
  float* const data = work.data_ptr<float>();
  const Calls calls(in, space, data, sums, walk.area());
  layer_forward(calls.first, in, data);
  layer_forward(calls.second, in, data);
  walk.forward(parameters(in, space, data), y);
  return {y, {sums.values, work}};
}

MetaResult forward(const MetaInputs& in) {
  const Tensor x = walkable(in.x, in.channel_dim);
  MetaResult result = forward_of(x, in, at::empty_like(x));
  if (!in.x.is_same(x)) {
    result.y = like(in.x).copy_(result.y);
  }
  return result;
}

MetaResult forward_after_norm(const MetaInputs& in, Norm&, const Tensor& z) {
  MetaResult result = forward_of(z, in, z);
  result.y = z.alias();
  return result;
}

// The gradients of the layer's parameters, and of z.
void layer_backward(
    const LayerCall& call, const MetaInputs& in, const float* work, const float* grad_y, const GpuWalk::Sums& sums,
    float* grad_z, GeneratorLayerGradients& grad, const Tensor& grad_p1, const Tensor& grad_p2) {
  const GeneratorLayer& layer = call.layer;
  grad.fc_weight = at::empty_like(layer.fc_weight), grad.fc_bias = at::empty_like(layer.fc_bias);
  if (in.generator.has_norm()) {
    grad.bn_weight = at::empty_like(layer.bn_weight), grad.bn_bias = at::empty_like(layer.bn_bias);
  }
  Launch launch("layer_backward", in.x);
  launch.pointer(grad_y).pointer(sums.values).pointer(in.p1).pointer(in.p2).pointer(call.x);
  launch.pointer(work + call.place.y).pointer(work + call.place.z);
  launch.pointer(work + call.place.mean).pointer(work + call.place.rstd).pointer(layer.bn_weight);
  launch.pointer(grad_z).output(grad.fc_weight).output(grad.fc_bias).output(grad.bn_weight).output(grad.bn_bias);
  launch.output(grad_p1).output(grad_p2);
  launch.integer(in.x.size(0)).integer(call.inputs).integer(call.place.outputs);
  launch.real(call.x_scale).real(in.generator.beta_scale);
  launch.constant(call.tile.samples).constant(call.tile.outputs).constant(call.tile.inputs);
  launch.constant(in.x.size(0) <= call.tile.samples).constant(call.x_parts).constant(sums.parts);
  launch.constant(sums.values.defined() ? sums.values.size(2) : 0).constant(norm_kind(in.generator));
  launch.constant(call.sigmoid);
  launch.run(quotient(call.place.outputs, call.tile.outputs), call.tile.warps);
}

// Sets the gradient of the layer's input, times `scale`.
void input_gradient(const LayerCall& call, const MetaInputs& in, const float* grad_z, double scale, float* grad_x) {
  const int64_t samples = in.x.size(0);
  const Tile tile(samples, call.inputs, call.place.outputs); // the sum is over the outputs
  const int64_t input_tiles = quotient(call.inputs, tile.outputs);
  Launch launch("input_gradient", in.x);
  launch.pointer(grad_z).pointer(call.layer.fc_weight).pointer(grad_x);
  launch.integer(samples).integer(call.inputs).integer(call.place.outputs).integer(input_tiles).real(scale);
  launch.constant(tile.samples).constant(tile.inputs).constant(tile.outputs);
  launch.run(quotient(samples, tile.samples) * input_tiles, tile.warps);
}

// The gradients of p1, p2 and the generator out of the sums of a backward pass, and that of the mean of x over space,
// per element: `mean_grad`, (N, C), in `scratch`.
struct BackwardOfGenerator {
  Tensor p1, p2;
  GeneratorGradients generator;
  Tensor scratch;
  const float* mean_grad;
};

BackwardOfGenerator generator_backward(
    const GpuWalk& walk, const MetaInputs& in, const std::vector<Tensor>& kept, const GpuWalk::Sums& sums) {
  const Workspace space = workspace(in);
  const float* const work = const_data<float>(kept[1]);
  const Calls calls(in, space, work, {kept[0], kept[0].size(1)}, walk.area());
  BackwardOfGenerator result;
  result.p1 = at::empty_like(in.p1), result.p2 = at::empty_like(in.p2);
  // One allocation: the gradients of z and y of both layers, where the mean stands for y of the first.
  const int64_t wide = space.samples * space.second.outputs, narrow = space.samples * space.first.outputs;
  result.scratch = at::empty({2 * wide + 2 * narrow}, in.p1.options());
  float *const grad_z2 = result.scratch.data_ptr<float>(), *const grad_mean = grad_z2 + wide;
  float *const grad_hidden = grad_mean + wide, *const grad_z1 = grad_hidden + narrow;
  layer_backward(calls.second, in, work, nullptr, sums, grad_z2, result.generator.second, result.p1, result.p2);
  input_gradient(calls.second, in, grad_z2, 1.0, grad_hidden);
  layer_backward(
      calls.first, in, work, grad_hidden, {Tensor(), 1}, grad_z1, result.generator.first, Tensor(), Tensor());
  input_gradient(calls.first, in, grad_z1, calls.first.x_scale, grad_mean);
  result.mean_grad = grad_mean;
  return result;
}

MetaGradients backward(Tensor grad_y, const MetaInputs& in, const std::vector<Tensor>& kept) {
  const c10::DeviceGuard guard(in.x.device());
  const Tensor x = walkable(in.x, in.channel_dim), grad = ordered_as(grad_y, x);
  const GpuWalk walk(x, in.channel_dim, true);
  const GpuParameters of_acon = parameters(in, workspace(in), const_data<float>(kept[1]));
  const auto sums = walk.backward(grad, of_acon, 3, {});
  auto found = generator_backward(walk, in, kept, sums);
  Tensor grad_x = at::empty_like(x);
  walk.backward(grad, of_acon, 0, grad_x, found.mean_grad);
  if (!in.x.is_same(x)) {
    grad_x = like(in.x).copy_(grad_x);
  }
  return {grad_x, found.p1, found.p2, std::move(found.generator)};
}

NormedAconGradients backward_after_norm(
    Tensor grad_y, const MetaInputs& in, const std::vector<Tensor>& kept, const Norm& norm,
    GeneratorGradients& of_generator) {
  const c10::DeviceGuard guard(in.x.device());
  const GpuWalk walk(in.x, in.channel_dim, true);
  const GpuParameters of_acon = parameters(in, workspace(in), const_data<float>(kept[1]));
  const bool ours = is_ours(grad_y) && grad_y.strides() == in.x.strides();
  const Tensor grad = ordered_as(grad_y, in.x);
  const auto sums = walk.backward(grad, of_acon, 6, {}, nullptr, {norm.values, {}});
  auto found = generator_backward(walk, in, kept, sums);
  of_generator = std::move(found.generator);
  const auto rows = [&](std::initializer_list<int64_t> sizes) { return at::empty(sizes, norm.values.options()); };
  NormedAconGradients result{ours ? grad : at::empty_like(in.x), rows({walk.channels}), rows({walk.channels}),
                             found.p1, found.p2, {}};
  const Tensor correction = norm.batch_statistics ? rows({2, walk.channels}) : Tensor();
  finish(walk, sums, of_acon, {{}, {}, {}, norm.values, result.weight, result.bias, correction, found.mean_grad});
  walk.backward(grad, of_acon, 0, result.u, found.mean_grad, {norm.values, correction});
  return result;
}

Tensor beta(const MetaInputs& in, const std::vector<Tensor>& kept) {
  const Workspace space = workspace(in);
  const int64_t channels = space.second.outputs;
  return kept[1].as_strided({space.samples, channels}, {channels, 1}, space.second.y);
}

std::array<NormStatistics, 2> statistics(const MetaInputs& in, const std::vector<Tensor>& kept) {
  const Workspace space = workspace(in);
  const auto of = [&](const Workspace::Layer& layer) {
    return NormStatistics{
        kept[1].narrow(0, layer.mean, layer.outputs), kept[1].narrow(0, layer.rstd, layer.outputs)};
  };
  return {of(space.first), of(space.second)};
}

} // namespace

const MetaKernels meta_gpu{forward, backward, beta, statistics, forward_after_norm, backward_after_norm};

} // namespace acon
