/* A driver of CUDA without a GPU, which keeps what was launched last and runs nothing.

   It takes any address for one on its device, so that tensors of the CPU can be launched with. */

#include "cuda.h"
#include <string.h>

#define STUB(name, ...) CUresult name(__VA_ARGS__) { return CUDA_SUCCESS; }
#define STUB_SETS(name, statement, ...) \
  CUresult name(__VA_ARGS__) { statement; return CUDA_SUCCESS; }

struct {
  int launches, num_params; /* the latter is set before a launch */
  unsigned grid[3], block[3], shared;
  char kernel[64];
  unsigned long long params[96];
} stub;

STUB(cuCtxSetCurrent, CUcontext context)
STUB(cuCtxSetLimit, CUlimit limit, size_t value)
STUB(cuFuncSetAttribute, CUfunction kernel, CUfunction_attribute name, int value)
STUB(cuFuncSetCacheConfig, CUfunction kernel, CUfunc_cache config)
STUB(cuModuleLoadData, CUmodule *module, const void *image)
STUB_SETS(cuCtxGetCurrent, *context = (CUcontext)&stub, CUcontext *context)
STUB_SETS(cuCtxGetLimit, *value = 0, size_t *value, CUlimit limit)
STUB_SETS(cuDeviceGet, *device = 0, CUdevice *device, int number)
STUB_SETS(cuDevicePrimaryCtxRetain, *context = (CUcontext)&stub, CUcontext *context, CUdevice device)
STUB_SETS(cuGetErrorString, *text = "the stub failed", CUresult error, const char **text)
STUB_SETS(cuPointerGetAttribute, *(CUdeviceptr *)value = pointer, void *value,
          CUpointer_attribute name, CUdeviceptr pointer)
/* Of an A100: bytes of shared memory, and otherwise a number that is large enough. */
STUB_SETS(cuDeviceGetAttribute, *value = 163 * 1024, int *value, CUdevice_attribute name,
          CUdevice device)
STUB_SETS(cuFuncGetAttribute, *value = name == CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK ? 1024 : 0,
          int *value, CUfunction_attribute name, CUfunction kernel)
/* A kernel is its name. */
STUB_SETS(cuModuleGetFunction, *kernel = (CUfunction)strdup(name), CUfunction *kernel,
          CUmodule module, const char *name)

CUresult cuLaunchKernelEx(const CUlaunchConfig *config, CUfunction kernel, void **params,
                          void **extra) {
  memcpy(stub.grid, &config->gridDimX, sizeof stub.grid);
  memcpy(stub.block, &config->blockDimX, sizeof stub.block);
  stub.shared = config->sharedMemBytes;
  strncpy(stub.kernel, (const char *)kernel, sizeof stub.kernel - 1);
  for (int i = 0; i < stub.num_params; i++)
    memcpy(&stub.params[i], params[i], sizeof stub.params[i]);
  stub.launches++;
  return CUDA_SUCCESS;
}
