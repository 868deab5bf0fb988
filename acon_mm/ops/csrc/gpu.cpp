// ACON-C and the mean on a GPU, without autograd: which kernel of ops/gpu_kernels walks a tensor, in which tiles.
#include "gpu.h"

#include "layout.h"

namespace acon {
namespace {

// Tiles, and programs for each multiprocessor, were chosen by time on an H100, in half and single precision.
//
// Elements of a tile, which 4 warps compute: few enough for the registers, enough to hide the latency of memory.
constexpr int64_t kTile = 1024;
constexpr int64_t kSmallTile = 512; // of small planes with sums
// Planes from this size on have tiles of their own.
constexpr int64_t kLargePlane = 1024;
// More programs make the waiting at the end shorter, and the sums more.
constexpr int64_t kForwardPrograms = 32, kPlanePrograms = 16, kRowPrograms = 8;
// The most parts of a sum that must be added one after the other.
constexpr int64_t kMaxParts = 16;
// The kernels count the elements of a block, rows, planes and tiles in int32, with some beyond the end.
constexpr int64_t kMaxCount = (int64_t(1) << 31) - (int64_t(1) << 24);

// `total` steps shared out to parts: their number, and the steps of each.
struct Parts {
  int64_t parts, steps;

  // `programs` for each multiprocessor.
  Parts(const Tensor& x, int64_t programs, int64_t total, int64_t programs_of_a_part) {
    const int64_t wanted = quotient(multiprocessors(x) * programs, std::max<int64_t>(programs_of_a_part, 1));
    steps = quotient(total, std::clamp<int64_t>(wanted, 1, std::max<int64_t>(total, 1)));
    steps = std::max<int64_t>(steps, 1);
    parts = std::max<int64_t>(quotient(total, steps), 1);
  }
};

// The part of a plane in a tile: the largest power of two that wastes least.
int64_t row_of_a_tile(int64_t inner) {
  int64_t best = kTile;
  for (int64_t length = kTile / 2; length >= 64; length /= 2) {
    if (quotient(inner, length) * length < quotient(inner, best) * best) {
      best = length;
    }
  }
  return inner >= kLargePlane ? kTile : best;
}

void add(Launch& launch, const GpuParameter& parameter) {
  if (parameter.tensor.defined()) {
    launch.pointer(parameter.tensor);
  } else {
    launch.pointer(parameter.data);
  }
}

void add(Launch& launch, const GpuParameters& parameters) {
  for (const auto& parameter : parameters) {
    add(launch, parameter);
  }
}

void add_strides(Launch& launch, const GpuParameters& parameters) {
  for (const auto& parameter : parameters) {
    launch.integer(parameter.sample_stride).integer(parameter.channel_stride);
  }
}

bool is_half_or_float(const Tensor& t) {
  const auto type = t.scalar_type();
  return type == at::kFloat || type == at::kHalf || type == at::kBFloat16;
}

// The shape of a parameter's gradient, as in ops/gpu_kernels.
int kind(const Tensor& grad, int64_t channels) {
  if (!grad.defined()) {
    return 0;
  }
  return grad.dim() == 1 ? 1 : grad.size(1) == channels ? 2 : 3;
}

Tensor contiguous_like(const Tensor& t) {
  return at::empty_like(t, at::MemoryFormat::Contiguous);
}

} // namespace

bool gpu_serves(const Tensor& x, int64_t channel_dim) {
  if (!is_half_or_float(x)) {
    return false;
  }
  const int64_t samples = std::max<int64_t>(x.size(0), 1), channels = std::max<int64_t>(x.size(channel_dim), 1);
  return samples * channels < kMaxCount && x.numel() / samples < kMaxCount && x.numel() / channels < kMaxCount;
}

bool gpu_serves(const Tensor& x, const Tensor& p1, const Tensor& p2, const Tensor& beta, int64_t channel_dim) {
  return gpu_serves(x, channel_dim) && is_half_or_float(p1) && is_half_or_float(p2) && is_half_or_float(beta);
}

GpuWalk::GpuWalk(const Tensor& walked, int64_t channel_dim, bool by_sample) : x(walked) {
  const bool last = is_channels_last(x, channel_dim);
  samples = x.size(0), channels = x.size(channel_dim), blocks = inner = 1;
  for (int64_t d = 1; d < x.dim(); ++d) {
    if (d != channel_dim) {
      (d < channel_dim || last ? blocks : inner) *= x.size(d);
    }
  }
  if (!by_sample) {
    blocks *= samples;
    samples = 1;
  }
  const bool aligned = inner * static_cast<int64_t>(x.element_size()) % 16 == 0;
  order = inner == 1 ? kRows : inner >= kLargePlane && aligned ? kPlanes : kFlat;
}

void GpuWalk::forward(const GpuParameters& parameters, const Tensor& y, const Tensor& norm_values) const {
  if (x.numel() == 0) {
    return;
  }
  const char* const names[] = {"forward_planes", "forward_flat", "forward_rows"};
  Launch launch(names[order], x);
  launch.pointer(x).output(y).pointer(norm_values);
  add(launch, parameters);
  int64_t programs;
  switch (order) {
    case kPlanes: {
      const int64_t tiles = quotient(inner, kTile);
      launch.integer(channels).integer(blocks).extent(inner).integer(tiles);
      add_strides(launch, parameters);
      launch.constant(kTile);
      programs = samples * blocks * channels * tiles;
      break;
    }
    case kFlat: {
      const int64_t size = channels * inner, tiles = quotient(size, kTile);
      const Parts parts(x, kForwardPrograms, blocks, samples * tiles);
      launch.integer(channels).integer(blocks).integer(inner).extent(size).integer(tiles);
      launch.integer(parts.parts).integer(parts.steps);
      add_strides(launch, parameters);
      launch.constant(kTile);
      programs = samples * parts.parts * tiles;
      break;
    }
    default: {
      const int64_t most = std::clamp<int64_t>(2 * kTile / power_of_two(blocks), 128, kTile);
      const int64_t columns = std::min<int64_t>(power_of_two(channels), most);
      const int64_t rows = std::min<int64_t>(2 * kTile / columns, power_of_two(blocks));
      const int64_t channel_tiles = quotient(channels, columns), row_tiles = quotient(blocks, rows);
      launch.extent(channels).integer(blocks).integer(channel_tiles).integer(row_tiles);
      add_strides(launch, parameters);
      launch.constant(rows).constant(columns);
      programs = samples * row_tiles * channel_tiles;
    }
  }
  launch.constant(norm_values.defined());
  launch.run(programs, 4);
}

GpuWalk::Sums GpuWalk::walk(
    const Tensor& grad_y, const GpuParameters* parameters, int sums, const Tensor& grad_x,
    const float* mean_grad, const NormBefore& norm) const {
  const auto options = x.options().dtype(at::kFloat);
  if (x.numel() == 0) {
    return {sums > 0 ? at::zeros({samples, 1, sums, channels}, options) : Tensor(), 1};
  }
  // Where each sample has sums of its own, they are of whole planes.
  const Order order = this->order == kFlat && samples > 1 && sums > 0 ? kPlanes : this->order;
  // The tiles, and how they are shared out.
  const char* name;
  int64_t programs_of_a_part, slots = 1, steps_in_all, programs = kPlanePrograms;
  std::array<int64_t, 3> tile{};
  size_t tile_constants = 2;
  int64_t tiles = 0;
  switch (order) {
    case kPlanes: {
      name = "backward_planes";
      const int64_t length = row_of_a_tile(inner), planes = kTile / length;
      tile = {planes, length};
      tiles = quotient(inner, length);
      programs_of_a_part = quotient(channels, planes);
      steps_in_all = blocks * tiles;
      break;
    }
    case kFlat: {
      name = "backward_flat";
      const int64_t elements = sums > 0 ? kSmallTile : kTile;
      // A channel may lie in so many tiles, and a tile may have so many channels.
      slots = quotient(inner - 1, elements) + 1;
      const int64_t segments = std::min<int64_t>(channels, (elements - 2) / inner + 2);
      tile = {elements, power_of_two(segments), power_of_two(std::min<int64_t>(inner, elements))};
      tile_constants = 3;
      tiles = quotient(channels * inner, elements);
      programs_of_a_part = tiles;
      steps_in_all = blocks;
      break;
    }
    default: {
      name = "backward_rows";
      programs = kRowPrograms;
      const int64_t columns = std::min<int64_t>(power_of_two(channels), 64);
      const int64_t rows = std::min<int64_t>(kTile / columns, power_of_two(blocks));
      tile = {rows, columns};
      programs_of_a_part = quotient(channels, columns);
      steps_in_all = quotient(blocks, rows);
    }
  }
  Parts parts(x, programs, steps_in_all, samples * programs_of_a_part);
  if (samples > 1 && parts.parts > kMaxParts) {
    parts.steps = quotient(steps_in_all, kMaxParts);
    parts.parts = quotient(steps_in_all, parts.steps);
  }
  Sums result{{}, parts.parts * slots};
  if (sums > 0) {
    result.values = at::empty({samples, result.parts, sums, channels}, options);
  }
  Launch launch(name, x);
  launch.pointer(x).pointer(grad_y).output(grad_x).output(result.values).pointer(mean_grad);
  launch.pointer(norm.values).pointer(norm.correction);
  if (parameters) {
    add(launch, *parameters);
  } else {
    launch.pointer(Tensor()).pointer(Tensor()).pointer(Tensor());
  }
  switch (order) {
    case kPlanes:
      launch.integer(channels).integer(blocks).extent(inner).integer(tiles).integer(programs_of_a_part);
      launch.integer(parts.parts).integer(parts.steps);
      break;
    case kFlat:
      launch.integer(channels).integer(blocks).integer(inner).extent(channels * inner).integer(tiles);
      launch.integer(parts.parts).integer(parts.steps).integer(slots);
      break;
    default:
      launch.extent(channels).integer(blocks).integer(programs_of_a_part).integer(parts.parts).integer(parts.steps);
  }
  if (parameters) {
    add_strides(launch, *parameters);
  } else {
    for (int i = 0; i < 6; ++i) {
      launch.integer(0);
    }
  }
  for (size_t i = 0; i < tile_constants; ++i) {
    launch.constant(tile[i]);
  }
  launch.constant(sums).constant(grad_x.defined()).constant(mean_grad != nullptr).constant(norm.kind());
  launch.run(samples * parts.parts * programs_of_a_part, 4);
  return result;
}

GpuWalk::Sums GpuWalk::backward(
    const Tensor& grad_y, const GpuParameters& parameters, int sums, const Tensor& grad_x,
    const float* mean_grad, const NormBefore& norm) const {
  return walk(grad_y, &parameters, sums, grad_x, mean_grad, norm);
}

GpuWalk::Sums GpuWalk::sum() const {
  return walk({}, nullptr, 1, {}, nullptr, {});
}

void finish(
    const GpuWalk& walk, const GpuWalk::Sums& sums, const GpuParameters& parameters, const GpuGradients& grad) {
  const int64_t channels = walk.channels, columns = 16, groups = quotient(channels, columns);
  const int kinds[] = {kind(grad.p1, channels), kind(grad.p2, channels), kind(grad.beta, channels)};
  const bool of_samples = kinds[0] > 1 || kinds[1] > 1 || kinds[2] > 1;
  const int64_t rows = std::min<int64_t>(power_of_two(walk.samples * sums.parts), 256);
  Launch launch("finish", walk.x);
  launch.pointer(sums.values);
  add(launch, parameters[0]), add(launch, parameters[1]);
  launch.output(grad.p1).output(grad.p2).output(grad.beta);
  launch.pointer(grad.norm_values).pointer(grad.mean_grad).output(grad.weight).output(grad.bias).output(grad.correction);
  launch.integer(walk.samples).integer(channels).integer(groups).integer(sums.parts).integer(walk.area());
  launch.integer(parameters[0].sample_stride).integer(parameters[0].channel_stride);
  launch.integer(parameters[1].sample_stride).integer(parameters[1].channel_stride);
  launch.constant(kinds[0]).constant(kinds[1]).constant(kinds[2]);
  launch.constant(GpuWalk::NormBefore{grad.norm_values, grad.correction}.kind());
  launch.constant(grad.mean_grad != nullptr).constant(sums.values.size(2)).constant(rows).constant(columns);
  launch.run(groups + (of_samples ? walk.samples : 0), rows * columns >= 2048 ? 8 : 4);
}

Tensor acon_c_gpu(const Tensor& input, const Tensor& p1, const Tensor& p2, const Tensor& beta, int64_t channel_dim) {
  const c10::DeviceGuard guard(input.device());
  const Tensor x = walkable(input, channel_dim);
  const GpuWalk walk(x, channel_dim, p1.dim() == 2 || p2.dim() == 2 || beta.dim() == 2);
  const Tensor y = at::empty_like(x);
  walk.forward({p1, p2, beta}, y);
  return input.is_same(x) ? y : like(input).copy_(y);
}

Gradients acon_c_backward_gpu(
    const Tensor& grad_y, const Tensor& input, const Tensor& p1, const Tensor& p2, const Tensor& beta,
    int64_t channel_dim, Mask output_mask) {
  const c10::DeviceGuard guard(input.device());
  const Tensor x = walkable(input, channel_dim);
  const bool by_sample = p1.dim() == 2 || p2.dim() == 2 || beta.dim() == 2;
  const GpuWalk walk(x, channel_dim, by_sample);
  const auto wanted = [&](int i, const Tensor& t) { return output_mask[i] ? contiguous_like(t) : Tensor(); };
  Tensor grad_x = wanted(0, x);
  if (grad_x.defined()) {
    grad_x = at::empty_like(x);
  }
  const Tensor grad_p1 = wanted(1, p1), grad_p2 = wanted(2, p2), grad_beta = wanted(3, beta);
  const bool sums = grad_p1.defined() || grad_p2.defined() || grad_beta.defined();
  const GpuParameters parameters{p1, p2, beta};
  const auto partial = walk.backward(ordered_as(grad_y, x), parameters, sums ? 3 : 0, grad_x);
  if (sums) {
    finish(walk, partial, parameters, {grad_p1, grad_p2, grad_beta});
  }
  if (grad_x.defined() && !input.is_same(x)) {
    grad_x = like(input).copy_(grad_x);
  }
  return {grad_x, grad_p1, grad_p2, grad_beta};
}

Tensor channel_mean_gpu(const Tensor& input, int64_t channel_dim) {
  const c10::DeviceGuard guard(input.device());
  const GpuWalk walk(walkable(input, channel_dim), channel_dim, true);
  const auto sums = walk.sum();
  // With one part the sum is the mean but for a factor.
  Tensor mean = sums.parts == 1 ? sums.values.view({walk.samples, walk.channels}) : sums.values.sum({1, 2});
  return mean.div_(static_cast<double>(walk.area()));
}

} // namespace acon
