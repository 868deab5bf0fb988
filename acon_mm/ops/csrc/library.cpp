// All files of the library but kernels.cpp, in one: compiled one by one, each would read PyTorch's headers again, and
// that takes most of the time.
#include "cpu.cpp"
#include "cpu_generator.cpp"
#include "gpu.cpp"
#include "gpu_launch.cpp"
#include "gpu_meta.cpp"
#include "meta_ops.cpp"
#include "ops.cpp"
#include "recipe.cpp"
#include "recompute.cpp"
