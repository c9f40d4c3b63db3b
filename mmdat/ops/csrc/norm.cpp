// LayerNorm over the channels of positions, of a map in float32 or BFloat16 to one in BFloat16.
//
// It takes four positions at a time, so that the sums over their channels are one vector. The
// backward pass needs the normalized map, in BFloat16, and 1 / sqrt(variance + epsilon).

#include <algorithm>
#include <cmath>

#include "maps.h"
#include "vectors.h"

namespace {

constexpr int64_t CHUNK = 256;  // positions, of which a row of sums is
constexpr int POSITIONS = 4;    // at a time, of which add_four_sums makes one vector

// The fields are in the order in which Python gives them.
struct Sizes {
    int64_t positions, channels;

    int64_t chunks() const { return round_up(positions, CHUNK) / CHUNK; }

    // Call f(position, how many there are from it on) for the groups of a chunk.
    template <typename F>
    void for_each_group(int64_t chunk, F f) const {
        const int64_t behind = std::min((chunk + 1) * CHUNK, positions);
        for (int64_t position = chunk * CHUNK; position < behind; position += POSITIONS)
            f(position, std::min<int64_t>(POSITIONS, behind - position));
    }
};

// The channels of a group; those of the last position once more where there are no others.
template <typename T>
struct Rows {
    const T *data[POSITIONS];

    Rows(const T *map, int64_t position, int64_t count, int64_t channels) {
        for (int i = 0; i < POSITIONS; ++i)
            data[i] = map + (position + std::min<int64_t>(i, count - 1)) * channels;
    }

    Vec at(int i, int64_t channel) const { return load(data[i] + channel); }
};

// The means over the channels of f(number of a position, channel).
template <typename F>
inline void compute_means(int64_t channels, float (&means)[POSITIONS], F f) {
    Vec sums[POSITIONS] = {};
    for (int64_t c = 0; c < channels; c += LANES)
#pragma GCC unroll 4
        for (int i = 0; i < POSITIONS; ++i) sums[i] += f(i, c);
    std::fill(means, means + POSITIONS, 0.0f);
    add_four_sums(sums[0], sums[1], sums[2], sums[3], means);
    for (float &mean : means) mean /= float(channels);
}

// The factors, 1 / sqrt(variance + epsilon), and the normalized map are wanted for a backward pass alone.
template <typename T>
void forward(int threads, const Sizes &sizes, const T *map, const float *weight, const float *bias,
             float epsilon, BFloat16 *out, BFloat16 *normalized, float *factors) {
    const int64_t channels = sizes.channels;
    const auto normalize = [=](int64_t position, int64_t count) {
        const Rows<T> x(map, position, count, channels);
        float means[POSITIONS], rests[POSITIONS], variances[POSITIONS];
        compute_means(channels, means, [&](int i, int64_t c) { return x.at(i, c); });
        // What rounding left out of the mean is not small where the channels are alike.
        compute_means(channels, rests, [&](int i, int64_t c) { return x.at(i, c) - means[i]; });
        for (int i = 0; i < POSITIONS; ++i) means[i] += rests[i];
        compute_means(channels, variances, [&](int i, int64_t c) {
            const Vec distance = x.at(i, c) - means[i];
            return distance * distance;
        });
        for (int i = 0; i < count; ++i) {
            const float factor = 1 / std::sqrt(variances[i] + epsilon);
            const int64_t at = (position + i) * channels;
            for (int64_t c = 0; c < channels; c += LANES) {
                const Vec value = (x.at(i, c) - means[i]) * factor;
                store(out + at + c, value * load(weight + c) + load(bias + c));
                if (normalized) store(normalized + at + c, value);
            }
            if (factors) factors[position + i] = factor;
        }
    };
#pragma omp parallel for num_threads(threads)
    for (int64_t chunk = 0; chunk < sizes.chunks(); ++chunk) sizes.for_each_group(chunk, normalize);
}

template <typename T>
void backward(int threads, const Sizes &sizes, const BFloat16 *grad_out, const BFloat16 *normalized,
              const float *factors, const float *weight, T *grad, float *grad_weight,
              float *grad_bias) {
    const int64_t channels = sizes.channels;
    Buffer<float> sums(sizes.chunks() * 2 * channels);  // [chunk][weight, then bias][channel]
#pragma omp parallel for num_threads(threads)
    for (int64_t chunk = 0; chunk < sizes.chunks(); ++chunk) {
        float *to_weight = sums.data() + chunk * 2 * channels, *to_bias = to_weight + channels;
        sizes.for_each_group(chunk, [=](int64_t position, int64_t count) {
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
            float means[POSITIONS], slopes[POSITIONS];
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
    add_rows(sums.data(), sizes.chunks(), 2 * channels, [=](int64_t i, Vec sum) {
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
