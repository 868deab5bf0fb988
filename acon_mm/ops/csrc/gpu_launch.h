// Launches of the Triton kernels in ops/gpu_kernels, by CUDA's driver. No header of
// CUDA is needed to build this, and no CUDA to load it.
#pragma once

#include <ATen/ATen.h>
#include <array>

namespace acon {

// One launch. The arguments come in the order of the Python function, the constants (in capitals there) too:
//
//   Launch("forward_planes", x).pointer(x)...integer(channels)...constant(tile).run(programs, warps);
//
// The first launch of a kernel with other constants, dtypes or alignments has Python compile it.
class Launch {
 public:
  // `on`: a tensor on the device.
  Launch(const char* kernel, const at::Tensor& on);

  // The elements of a tensor; null where the tensor is undefined.
  Launch& pointer(const at::Tensor& t);
  // The same, to be written.
  Launch& output(const at::Tensor& t);
  Launch& pointer(const float* data) {
    return address(data, at::kFloat);
  }
  Launch& integer(int64_t value);
  // An integer whose divisibility by a power of two decides how wide memory is read.
  Launch& extent(int64_t value);
  Launch& real(double value);
  Launch& constant(int64_t value);

  // One-dimensional grid, on the current stream of the device. Nothing where there are no programs.
  void run(int64_t programs, int warps);

  static constexpr size_t kMaxArguments = 32, kMaxConstants = 10;

  // All that the machine code of a kernel depends on. Filled with zeros, because it is compared and hashed as bytes.
  struct Key {
    const char* kernel; // compared as an address, so it must be a literal
    int32_t device, warps;
    std::array<int32_t, kMaxConstants> constants;
    // 'f' and 'i' for a float and an int32; the dtype of a pointer. In the upper half the known divisor, or 0.
    std::array<int16_t, kMaxArguments> types;
    int32_t argument_count, constant_count;
  };

 private:
  union Value {
    const void* pointer;
    int32_t integer;
    float real;
  };

  Launch& address(const void* data, at::ScalarType dtype);
  void add(Value value, int type, int divisor);

  c10::Device device_;
  Key key_;
  std::array<Value, kMaxArguments> values_;
};

// The number of multiprocessors of the tensor's device.
int64_t multiprocessors(const at::Tensor& on);

} // namespace acon
