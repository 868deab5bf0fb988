// What differs between the versions of PyTorch, from 2.0 on. It is told by what there is, not by the version.
#pragma once

#include <ATen/ATen.h>
#include <ATen/SavedTensorHooks.h>
#include <ATen/Version.h>
#include <ATen/core/ivalue.h>

#include <string>
#include <utility>

namespace acon {

// c10::optional, which was not std::optional before 2.4.
using MaybeTensor = decltype(std::declval<const c10::IValue&>().toOptional<at::Tensor>());

// Reading a tensor's memory must not copy what it shares (copy on write, since 2.1).
template <typename T>
auto const_data_ptr(const T& t, int) -> decltype(t.const_data_ptr()) {
  return t.const_data_ptr();
}
template <typename T>
const void* const_data_ptr(const T& t, long) {
  return t.data_ptr();
}

// The elements of a tensor; null where there is no tensor.
template <typename S>
S* data(const at::Tensor& t) {
  return t.defined() ? static_cast<S*>(t.data_ptr()) : nullptr;
}
template <typename S>
const S* const_data(const at::Tensor& t) {
  return t.defined() ? static_cast<const S*>(const_data_ptr(t, 0)) : nullptr;
}

// The instruction set that PyTorch's own kernels use. The function that tells it alone is of 2.1.
inline bool pytorch_uses(const char* capability) {
  return at::show_config().find(std::string("CPU capability usage: ") + capability + "\n") != std::string::npos;
}

// The stream's handle of CUDA's driver. Before 2.3, PyTorch tells it only to code that is built with CUDA; Python launches
// the kernels there (ops/gpu.py).
template <typename Stream>
auto native_handle(const Stream& stream, int) -> decltype(stream.native_handle()) {
  return stream.native_handle();
}
template <typename Stream>
void* native_handle(const Stream&, long) {
  TORCH_CHECK(false, "this PyTorch does not tell the handle of a CUDA stream");
}

// Whether there are hooks on saved tensors: an optional pair, or one of null pointers before 2.6.
template <typename Hooks>
auto is_set(const Hooks& hooks, int) -> decltype(hooks.has_value()) {
  return hooks.has_value();
}
template <typename Hooks>
bool is_set(const Hooks& hooks, long) {
  return hooks.first != nullptr;
}
inline bool has_saved_tensor_hooks() {
  return is_set(at::SavedTensorDefaultHooks::get_hooks(), 0);
}

} // namespace acon
