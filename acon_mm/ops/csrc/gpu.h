// What runs on a GPU, without autograd: the counterpart of cpu.h. The arguments were checked (arguments.h).
#pragma once

#include "cpu.h"
#include "gpu_launch.h"

namespace acon {

inline int64_t quotient(int64_t value, int64_t divisor) { // rounded up
  return (value + divisor - 1) / divisor;
}
inline int64_t power_of_two(int64_t value) { // at least `value`
  int64_t power = 1;
  while (power < value) {
    power *= 2;
  }
  return power;
}

// The type of device that the kernels run on. None before `use_gpu_kernels`.
c10::DeviceType& gpu_device_type();
inline bool runs_on_gpu(const Tensor& x) {
  return x.device().type() == gpu_device_type();
}

// Whether the kernels take these tensors. The reference takes all others.
bool gpu_serves(const Tensor& x, const Tensor& p1, const Tensor& p2, const Tensor& beta, int64_t channel_dim);
bool gpu_serves(const Tensor& x, int64_t channel_dim);

Tensor acon_c_gpu(const Tensor& x, const Tensor& p1, const Tensor& p2, const Tensor& beta, int64_t channel_dim);
Gradients acon_c_backward_gpu(
    const Tensor& grad_y, const Tensor& x, const Tensor& p1, const Tensor& p2, const Tensor& beta,
    int64_t channel_dim, Mask output_mask);
Tensor channel_mean_gpu(const Tensor& x, int64_t channel_dim);

// The counterparts of those in cpu.h, where p1 and p2 are (C,). x and u must be walkable.
void acon_c_gpu_(const Tensor& x, const Tensor& p1, const Tensor& p2, const Tensor& beta, int64_t channel_dim);
Tensor norm_values_gpu(const Tensor& u, const NormTensors& of);
Tensor normed_acon_c_gpu(
    const Tensor& u, const Tensor& norm_values, const Tensor& p1, const Tensor& p2, const Tensor& beta,
    int64_t channel_dim);
NormedAconGradients normed_acon_c_backward_gpu(
    Tensor grad_y, const Tensor& u, const Norm& norm, const Tensor& p1, const Tensor& p2, const Tensor& beta,
    int64_t channel_dim);

// The values of a parameter: (C,), (N, C) or (N, 1). A stride of 0 repeats them.
struct GpuParameter {
  Tensor tensor; // or, where it is undefined,
  const float* data;
  int64_t sample_stride, channel_stride;

  GpuParameter(const Tensor& t)
      : tensor(t),
        data(nullptr),
        sample_stride(t.dim() == 2 ? t.stride(0) : 0),
        channel_stride(t.size(-1) == 1 ? 0 : t.stride(-1)) {}
  GpuParameter(const float* data, int64_t sample_stride) : data(data), sample_stride(sample_stride), channel_stride(1) {}
};
using GpuParameters = std::array<GpuParameter, 3>; // p1, p2 and beta

// How the kernels walk a tensor: the three orders of ops/gpu_kernels.
struct GpuWalk {
  enum Order { kPlanes, kFlat, kRows };

  // by_sample: something has a value per sample. Otherwise the samples count as blocks.
  // x must be walkable (layout.h).
  GpuWalk(const Tensor& x, int64_t channel_dim, bool by_sample);

  Tensor x;
  Order order;
  int64_t samples, blocks, channels, inner;

  int64_t area() const { // of a sample and channel
    return blocks * inner;
  }

  // Of a norm before, x is the input. Its values, and what its own mean and variance add to grad_x (ops/gpu_kernels).
  struct NormBefore {
    Tensor values, correction; // undefined where there are none

    int kind() const {
      return correction.defined() ? 2 : values.defined() ? 1 : 0;
    }
  };

  // Writes the result to `y`, which may be x.
  void forward(const GpuParameters& parameters, const Tensor& y, const Tensor& norm_values = {}) const;

  struct Sums {
    Tensor values; // (samples, parts, number of sums, channels)
    int64_t parts;
  };
  // `sums` (0, 3, or with a norm before 5 or 6) of grad_y times the derivatives, and grad_x where it is wanted.
  // `mean_grad`, (N, C), is added to the gradient of the ACON's input. With a norm before, x is the norm's input.
  Sums backward(
      const Tensor& grad_y, const GpuParameters& parameters, int sums, const Tensor& grad_x,
      const float* mean_grad = nullptr, const NormBefore& norm = {}) const;
  // The sums of x.
  Sums sum() const;

 private:
  Sums walk(
      const Tensor& grad_y, const GpuParameters* parameters, int sums, const Tensor& grad_x,
      const float* mean_grad, const NormBefore& norm) const;
};

// Launches `finish`: the gradients of p1, p2 and beta out of the sums, where they are defined.
struct GpuGradients {
  Tensor p1, p2, beta;
  // Of a norm before: its values, the gradients of its weight and bias, and its correction.
  Tensor norm_values, weight, bias, correction;
  // As for GpuWalk::backward, which has made 6 sums then.
  const float* mean_grad = nullptr;
};
void finish(const GpuWalk& walk, const GpuWalk::Sums& sums, const GpuParameters& parameters, const GpuGradients& grad);

} // namespace acon
