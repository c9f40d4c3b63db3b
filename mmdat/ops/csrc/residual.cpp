// A map in BFloat16 added to one in float32, in one pass.

#include <algorithm>

#include "vectors.h"

namespace {

constexpr int64_t CHUNK = 8192;  // numbers that a thread takes at a time

}  // namespace

extern "C" void mmdat_residual_add_float32(int threads, const int64_t *size, const float *x,
                                           const BFloat16 *branch, float *out) {
#pragma omp parallel for num_threads(threads)
    for (int64_t first = 0; first < *size; first += CHUNK) {
        const int64_t behind = std::min(first + CHUNK, *size);
        for (int64_t i = first; i < behind; i += LANES)
            store(out + i, load(x + i, behind - i) + load(branch + i, behind - i), behind - i);
    }
}
