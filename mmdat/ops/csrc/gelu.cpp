// GELU of each number, in one pass forward and one backward.

#include <algorithm>

#include "gelu.h"

namespace {

constexpr int64_t CHUNK = 8192;  // numbers that a thread takes at a time

// Call f(first, how many there are from it on) for each vector.
template <typename F>
void for_each_vector(int threads, int64_t size, F f) {
#pragma omp parallel for num_threads(threads)
    for (int64_t first = 0; first < size; first += CHUNK) {
        const int64_t behind = std::min(first + CHUNK, size);
        for (int64_t i = first; i < behind; i += LANES) f(i, behind - i);
    }
}

}  // namespace

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
