// LayerNorm over the channels of positions, of a map in float32 or BFloat16 to one in BFloat16.
//
// The backward pass needs the normalized map, in BFloat16, and 1 / sqrt(variance + epsilon).

#include "rows.h"

namespace {

// The fields are in the order in which Python gives them.
struct Sizes {
    Chunks<256> positions;  // of which a row of sums is
    int64_t channels;
};

// The factors, 1 / sqrt(variance + epsilon), and the normalized map are wanted for a backward pass alone.
template <typename T>
void forward(int threads, const Sizes &sizes, const T *map, const float *weight, const float *bias,
             float epsilon, BFloat16 *out, BFloat16 *normalized, float *factors) {
    const int64_t channels = sizes.channels;
    const auto normalize = [=](int64_t position, int64_t count) {
        const NormalizedRows<T> x(Rows<T>(map, position, count, channels), channels, epsilon);
        for (int i = 0; i < count; ++i) {
            const int64_t at = (position + i) * channels;
            for (int64_t c = 0; c < channels; c += LANES) {
                const Vec value = x.at(i, c);
                store(out + at + c, value * load(weight + c) + load(bias + c));
                if (normalized) store(normalized + at + c, value);
            }
            if (factors) factors[position + i] = x.factors[i];
        }
    };
#pragma omp parallel for num_threads(threads)
    for (int64_t chunk = 0; chunk < sizes.positions.count(); ++chunk)
        sizes.positions.for_each_four(chunk, normalize);
}

template <typename T>
void backward(int threads, const Sizes &sizes, const BFloat16 *grad_out, const BFloat16 *normalized,
              const float *factors, const float *weight, T *grad, float *grad_weight,
              float *grad_bias) {
    const int64_t channels = sizes.channels;
    Buffer<float> sums(sizes.positions.count() * 2 * channels);  // [chunk][weight, then bias][channel]
#pragma omp parallel for num_threads(threads)
    for (int64_t chunk = 0; chunk < sizes.positions.count(); ++chunk) {
        float *to_weight = sums.data() + chunk * 2 * channels, *to_bias = to_weight + channels;
        sizes.positions.for_each_four(chunk, [=](int64_t position, int64_t count) {
            const Rows<BFloat16> grads(grad_out, position, count, channels);
            const Rows<BFloat16> values(normalized, position, count, channels);
            for (int64_t c = 0; c < channels; c += LANES) {
                Vec of_weight = load(to_weight + c), of_bias = load(to_bias + c);
                for (int i = 0; i < count; ++i) {
                    of_weight += grads.at(i, c) * values.at(i, c);
                    of_bias += grads.at(i, c);
                }
                store(to_weight + c, of_weight);
                store(to_bias + c, of_bias);
            }
            float means[ROWS], slopes[ROWS];
            compute_means(channels, means,
                          [&](int i, int64_t c) { return grads.at(i, c) * load(weight + c); });
            compute_means(channels, slopes, [&](int i, int64_t c) {
                return grads.at(i, c) * load(weight + c) * values.at(i, c);
            });
            for (int i = 0; i < count; ++i)
                for (int64_t c = 0; c < channels; c += LANES)
                    store(grad + (position + i) * channels + c,
                          factors[position + i] * (grads.at(i, c) * load(weight + c) - means[i] -
                                                   slopes[i] * values.at(i, c)));
        });
    }
    add_rows(sums.data(), sizes.positions.count(), 2 * channels, [=](int64_t i, Vec sum) {
        store(i < channels ? grad_weight + i : grad_bias + i - channels, sum);
    });
}

}  // namespace

// They are named after the type of the map.
#define KERNELS(NAME, T)                                                                           \
    extern "C" void mmdat_layer_norm_forward_##NAME(                                               \
        int threads, const Sizes *sizes, const T *map, const float *weight, const float *bias,     \
        float epsilon, BFloat16 *out, BFloat16 *normalized, float *factors) {                      \
        forward<T>(threads, *sizes, map, weight, bias, epsilon, out, normalized, factors);         \
    }                                                                                              \
    extern "C" void mmdat_layer_norm_backward_##NAME(                                              \
        int threads, const Sizes *sizes, const BFloat16 *grad_out, const BFloat16 *normalized,     \
        const float *factors, const float *weight, T *grad, float *grad_weight,                    \
        float *grad_bias) {                                                                        \
        backward<T>(threads, *sizes, grad_out, normalized, factors, weight, grad, grad_weight,     \
                    grad_bias);                                                                    \
    }

KERNELS(float32, float)
KERNELS(bfloat16, BFloat16)
