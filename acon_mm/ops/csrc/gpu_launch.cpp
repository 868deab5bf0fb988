#include "gpu_launch.h"

#include <ATen/core/dispatch/Dispatcher.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <dlfcn.h>
#include <cstring>
#include <mutex>
#include <string_view>
#include <unordered_map>

#include "compat.h"

namespace acon {

using at::Tensor;

namespace {

// The part of CUDA's driver that is used, by its documented ABI.
struct Driver {
  using Result = int;
  static constexpr Result kInvalidContext = 201;
  static constexpr int kMultiprocessorCount = 16, kMaxDynamicSharedSize = 8;

  Result (*init)(unsigned) = nullptr;
  Result (*get_error_string)(Result, const char**) = nullptr;
  Result (*device_get_attribute)(int*, int, int) = nullptr;
  Result (*device_retain_context)(void**, int) = nullptr;
  Result (*set_context)(void*) = nullptr;
  Result (*load_module)(void**, const void*) = nullptr;
  Result (*get_function)(void**, void*, const char*) = nullptr;
  Result (*set_function_attribute)(void*, int, int) = nullptr;
  Result (*launch)(
      void*, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void*, void**, void**) = nullptr;

  Driver() {
    void* const library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    TORCH_CHECK(library, "CUDA's driver does not load: ", dlerror());
    const auto find = [&](auto& function, const char* name) {
      function = reinterpret_cast<std::decay_t<decltype(function)>>(dlsym(library, name));
      TORCH_CHECK(function, "CUDA's driver has no ", name);
    };
    find(init, "cuInit");
    find(get_error_string, "cuGetErrorString");
    find(device_get_attribute, "cuDeviceGetAttribute");
    find(device_retain_context, "cuDevicePrimaryCtxRetain");
    find(set_context, "cuCtxSetCurrent");
    find(load_module, "cuModuleLoadData");
    find(get_function, "cuModuleGetFunction");
    find(set_function_attribute, "cuFuncSetAttribute");
    find(launch, "cuLaunchKernel");
    check(init(0), "cuInit");
  }

  void check(Result result, const char* what) const {
    if (result != 0) {
      const char* text = nullptr;
      get_error_string(result, &text);
      TORCH_CHECK(false, what, ": ", text ? text : "unknown error", " (", result, ")");
    }
  }
};

const Driver& driver() {
  static const Driver loaded;
  return loaded;
}

struct Compiled {
  void* function;
  unsigned shared;
};

struct KeyHash {
  size_t operator()(const Launch::Key& key) const {
    return std::hash<std::string_view>()({reinterpret_cast<const char*>(&key), sizeof key});
  }
};
struct Same {
  bool operator()(const Launch::Key& a, const Launch::Key& b) const {
    return std::memcmp(&a, &b, sizeof a) == 0;
  }
};

// The device's context becomes that of this thread. PyTorch's own context is the device's primary one.
void use_context(int device) {
  void* context = nullptr;
  driver().check(driver().device_retain_context(&context, device), "cuDevicePrimaryCtxRetain");
  driver().check(driver().set_context(context), "cuCtxSetCurrent");
}

Compiled compile(const Launch::Key& key) {
  // ops/gpu.py has it.
  static const auto op =
      c10::Dispatcher::singleton()
          .findSchemaOrThrow("acon_mm::gpu_kernel", "")
          .typed<std::tuple<Tensor, std::string, int64_t>(
              c10::string_view, at::IntArrayRef, at::IntArrayRef, at::IntArrayRef, int64_t, int64_t)>();
  std::vector<int64_t> types, divisors;
  for (int32_t i = 0; i < key.argument_count; ++i) {
    types.push_back(key.types[i] & 0xff);
    divisors.push_back(key.types[i] >> 8);
  }
  const std::vector<int64_t> constants(key.constants.begin(), key.constants.begin() + key.constant_count);
  const auto [code, symbol, shared] = op.call(key.kernel, types, divisors, constants, key.warps, key.device);
  void *module = nullptr, *function = nullptr;
  auto result = driver().load_module(&module, const_data<void>(code));
  if (result == Driver::kInvalidContext) {
    use_context(key.device);
    result = driver().load_module(&module, const_data<void>(code));
  }
  driver().check(result, "cuModuleLoadData");
  driver().check(driver().get_function(&function, module, symbol.c_str()), "cuModuleGetFunction");
  if (shared > 48 << 10) { // more than a kernel gets unasked
    driver().check(
        driver().set_function_attribute(function, Driver::kMaxDynamicSharedSize, static_cast<int>(shared)),
        "cuFuncSetAttribute");
  }
  return {function, static_cast<unsigned>(shared)};
}

Compiled compiled(const Launch::Key& key) {
  static std::mutex mutex;
  static std::unordered_map<Launch::Key, Compiled, KeyHash, Same> cache;
  {
    const std::lock_guard<std::mutex> lock(mutex);
    const auto found = cache.find(key);
    if (found != cache.end()) {
      return found->second;
    }
  }
  // Python may give way to another thread here, so the lock must not be held. At worst, two threads compile the same.
  const Compiled result = compile(key);
  const std::lock_guard<std::mutex> lock(mutex);
  return cache.emplace(key, result).first->second;
}

int index(const c10::Device& device) {
  return device.has_index() ? device.index() : 0;
}

// The largest power of two, up to 16, that divides the value.
int divisor(uint64_t value) {
  return value == 0 ? 16 : static_cast<int>(std::min<uint64_t>(16, value & (~value + 1)));
}

} // namespace

Launch::Launch(const char* kernel, const Tensor& on) : device_(on.device()) {
  std::memset(&key_, 0, sizeof key_);
  key_.kernel = kernel;
  key_.device = index(device_);
}

void Launch::add(Value value, int type, int divisor) {
  TORCH_INTERNAL_ASSERT(key_.argument_count < static_cast<int>(kMaxArguments));
  values_[key_.argument_count] = value;
  key_.types[key_.argument_count++] = static_cast<int16_t>(type | divisor << 8);
}

Launch& Launch::address(const void* data, at::ScalarType dtype) {
  Value value;
  value.pointer = data;
  add(value, static_cast<int>(dtype), reinterpret_cast<uintptr_t>(data) % 16 == 0 ? 16 : 0);
  return *this;
}

Launch& Launch::pointer(const Tensor& t) {
  return t.defined() ? address(const_data<void>(t), t.scalar_type()) : pointer(static_cast<const float*>(nullptr));
}

Launch& Launch::output(const Tensor& t) {
  return t.defined() ? address(t.data_ptr(), t.scalar_type()) : pointer(static_cast<const float*>(nullptr));
}

Launch& Launch::integer(int64_t number) {
  Value value;
  value.integer = static_cast<int32_t>(number);
  add(value, 'i', 0);
  return *this;
}

Launch& Launch::extent(int64_t number) {
  integer(number);
  key_.types[key_.argument_count - 1] |= static_cast<int16_t>(divisor(number) << 8);
  return *this;
}

Launch& Launch::real(double number) {
  Value value;
  value.real = static_cast<float>(number);
  add(value, 'f', 0);
  return *this;
}

Launch& Launch::constant(int64_t value) {
  TORCH_INTERNAL_ASSERT(key_.constant_count < static_cast<int>(kMaxConstants));
  key_.constants[key_.constant_count++] = static_cast<int32_t>(value);
  return *this;
}

void Launch::run(int64_t programs, int warps) {
  if (programs == 0) {
    return;
  }
  key_.warps = warps;
  const Compiled kernel = compiled(key_);
  // Kernels take pointers to scratch memory after their arguments, which these kernels do not use.
  std::array<void*, kMaxArguments + 4> arguments;
  const void* no_scratch = nullptr;
  arguments.fill(&no_scratch);
  for (int32_t i = 0; i < key_.argument_count; ++i) {
    arguments[i] = &values_[i];
  }
  void* stream = nullptr;
  if (!device_.is_cpu()) {
    stream = native_handle(c10::impl::VirtualGuardImpl(device_.type()).getStream(device_), 0);
  }
  const auto launch = [&] {
    return driver().launch(
        kernel.function, static_cast<unsigned>(programs), 1, 1, 32 * warps, 1, 1, kernel.shared, stream,
        arguments.data(), nullptr);
  };
  auto result = launch();
  if (result == Driver::kInvalidContext) { // a thread that has not used CUDA yet
    use_context(key_.device);
    result = launch();
  }
  driver().check(result, "cuLaunchKernel");
}

int64_t multiprocessors(const Tensor& on) {
  static std::array<std::atomic<int>, 64> counts{};
  const int device = index(on.device());
  auto& known = counts[device % counts.size()];
  int count = known.load();
  if (count == 0) {
    driver().check(
        driver().device_get_attribute(&count, Driver::kMultiprocessorCount, device), "cuDeviceGetAttribute");
    known.store(count);
  }
  return count;
}

} // namespace acon
