/* A stand-in for CUDA's driver, libcuda.so.1. It gives each launch to a function of the test. */
#include <string.h>

typedef int (*launch_function)(const char *kernel, unsigned programs, unsigned threads, unsigned shared, void *stream,
                               void **arguments);
static launch_function on_launch;
static char kernels[1024][4096]; /* a module is its own machine code: the description of a kernel */
static int count;

void stub_set_launch(launch_function function) { on_launch = function; }

int cuInit(unsigned flags) { return 0; }
int cuGetErrorString(int error, const char **text) { *text = "an error of the stub"; return 0; }
int cuDeviceGetAttribute(int *value, int attribute, int device) { *value = 2; return 0; }
int cuDevicePrimaryCtxRetain(void **context, int device) { return 0; }
int cuCtxSetCurrent(void *context) { return 0; }
int cuModuleLoadData(void **module, const void *code) {
  strncpy(kernels[count], code, sizeof kernels[count] - 1);
  *module = kernels[count++];
  return 0;
}
int cuModuleGetFunction(void **function, void *module, const char *name) { *function = module; return 0; }
int cuFuncSetAttribute(void *function, int attribute, int value) { return 0; }
int cuLaunchKernel(void *function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x, unsigned block_y,
                   unsigned block_z, unsigned shared, void *stream, void **arguments, void **extra) {
  if (grid_y != 1 || grid_z != 1 || block_y != 1 || block_z != 1 || extra) return 1;
  return on_launch(function, grid_x, block_x, shared, stream, arguments);
}
