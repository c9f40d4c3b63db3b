// GELU of each number, in one pass forward and one backward.

#include "gelu.h"

// The output may be the map itself.
#define KERNELS(NAME, T)                                                                           \
    extern "C" void mmdat_gelu_forward_##NAME(int threads, const int64_t *size, const T *x,        \
                                              T *out) {                                            \
        for_each_vector(threads, *size, [=](int64_t i, int64_t count) {                            \
            store(out + i, gelu<T>(load(x + i, count)), count);                                    \
        });                                                                                        \
    }                                                                                              \
    extern "C" void mmdat_gelu_backward_##NAME(int threads, const int64_t *size, const T *x,       \
                                               const T *grad_out, T *grad) {                       \
        for_each_vector(threads, *size, [=](int64_t i, int64_t count) {                            \
            store(grad + i, load(grad_out + i, count) * gelu_slope<T>(load(x + i, count)), count); \
        });                                                                                        \
    }

KERNELS(float32, float)
KERNELS(bfloat16, BFloat16)
