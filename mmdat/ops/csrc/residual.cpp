// A map in BFloat16 added to one in float32, in one pass.

#include "vectors.h"

extern "C" void mmdat_residual_add_float32(int threads, const int64_t *size, const float *x,
                                           const BFloat16 *branch, float *out) {
    for_each_vector(threads, *size, [=](int64_t i, int64_t count) {
        store(out + i, load(x + i, count) + load(branch + i, count), count);
    });
}
