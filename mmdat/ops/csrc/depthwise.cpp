// A 3 x 3 convolution of each channel by itself over a channels-last map, and GELU of it or not.
//
// A thread takes a block of channels of a band of rows. It goes along each row with sums for three
// neighboring positions, to which it adds the products of a column of three numbers. The backward
// pass computes anew what GELU was applied to, and holds the gradients of that for three rows.

#include <algorithm>

#include "gelu.h"
#include "maps.h"
#include "vectors.h"

namespace {

constexpr int TAPS = 9;
constexpr int BAND = 16;   // rows, of which sums for weights are
constexpr int BLOCK = 32;  // channels, of which a line of the cache has as many or half of them

// The fields are in the order in which Python gives them.
struct Sizes {
    int64_t batch, height, width, channels, gelu;
};

// A row of a map, or of zeros around it.
template <typename T>
struct Row {
    const T *data;
    int64_t stride;

    Vec at(int64_t column) const { return load(data + column * stride); }

    void prefetch(int64_t column) const { ::prefetch(data + column * stride); }
};

// Sum the products of three rows with weights, and give end(column, sum) each.
template <typename T, typename End>
inline void convolve(const Row<T> (&rows)[3], const Vec (&weights)[TAPS], Vec start, int64_t width,
                     End end) {
    Vec left = start, middle = start;  // sums for the column before, and for this one
    for (int64_t column = 0; column < width; ++column) {
        const Vec x[3] = {rows[0].at(column), rows[1].at(column), rows[2].at(column)};
        Vec right = start;
#pragma GCC unroll 3
        for (int i = 0; i < 3; ++i) {
            left += x[i] * weights[3 * i + 2];
            middle += x[i] * weights[3 * i + 1];
            right += x[i] * weights[3 * i];
        }
        if (column) end(column - 1, left);
        left = middle;
        middle = right;
    }
    end(width - 1, left);
}

template <typename T>
struct Convolution {
    const Sizes sizes;
    const T *map;
    const float *bias;
    const int64_t bands, blocks;
    Buffer<T> zeros;
    Buffer<float> weights;  // [tap][channel], with 1 added to those of the middle

    // The weight is of [channel][tap].
    Convolution(const Sizes &sizes, const T *map, const float *weight, const float *bias)
        : sizes(sizes), map(map), bias(bias),
          bands(round_up(sizes.height, BAND) / BAND), blocks(round_up(sizes.channels, BLOCK) / BLOCK),
          zeros(LANES), weights(TAPS * sizes.channels) {
        for (int64_t c = 0; c < sizes.channels; ++c)
            for (int tap = 0; tap < TAPS; ++tap)
                weights[tap * sizes.channels + c] = weight[c * TAPS + tap] + (tap == TAPS / 2);
    }

    int64_t bands_of_all() const { return sizes.batch * bands; }

    int64_t tasks() const { return bands_of_all() * blocks; }

    int64_t offset(int64_t sample, int64_t row, int64_t channel) const {
        return (sample * sizes.height + row) * sizes.width * sizes.channels + channel;
    }

    Row<T> row(const T *of, int64_t sample, int64_t row, int64_t channel) const {
        if (row < 0 || row >= sizes.height) return {zeros.data(), 0};
        return {of + offset(sample, row, channel), sizes.channels};
    }

    void take_weights(int64_t channel, bool turned, Vec (&to)[TAPS]) const {
        for (int tap = 0; tap < TAPS; ++tap)
            to[tap] = load(weights.data() + (turned ? TAPS - 1 - tap : tap) * sizes.channels + channel);
    }

    // Call f(sample, first row, row behind the last, first channel, channel behind the last).
    template <typename F>
    void at(int64_t task, F f) const {
        const int64_t band = task / blocks, first = band % bands * BAND;
        const int64_t channel = task % blocks * BLOCK;
        f(band / bands, first, std::min(first + BAND, sizes.height), channel,
          std::min(channel + BLOCK, sizes.channels));
    }

    template <bool GELU>
    void forward(int64_t task, T *out) const {
        at(task, [&](int64_t sample, int64_t first, int64_t last, int64_t channel, int64_t behind) {
            for (int64_t y = first; y < last; ++y)
                for (int64_t c = channel; c < behind; c += LANES) {
                    Vec factors[TAPS];
                    take_weights(c, false, factors);
                    T *to = out + offset(sample, y, c);
                    const Row<T> next = row(map, sample, y + 2, c);
                    convolve({row(map, sample, y - 1, c), row(map, sample, y, c),
                              row(map, sample, y + 1, c)},
                             factors, load(bias + c), sizes.width, [&](int64_t x, Vec sum) {
                                 next.prefetch(x);
                                 prefetch_to_write(to + (sizes.width + x) * sizes.channels);
                                 store(to + x * sizes.channels, GELU ? gelu<T>(sum) : sum);
                             });
                }
        });
    }

    // Sums are of [band of rows of all samples][tap, and bias at last][channel].
    template <bool GELU>
    void backward(int64_t task, const T *grad_out, T *grad, float *sums) const {
        at(task, [&](int64_t sample, int64_t first, int64_t last, int64_t channel, int64_t behind) {
            for (int64_t c = channel; c < behind; c += LANES) {
                Vec totals[TAPS + 1] = {};
                Buffer<float> kept(3 * sizes.width * LANES);
                const auto kept_row = [&](int64_t y) {
                    return kept.data() + (y + 3) % 3 * sizes.width * LANES;
                };
                const auto gradients = [&](int64_t y) { return Row<float>{kept_row(y), LANES}; };
                for (int64_t y = first - 1; y <= last; ++y) {
                    compute_gradients<GELU>(grad_out, sample, y, c, kept_row(y));
                    if (y >= first && y < last)
                        add_products({row(map, sample, y - 1, c), row(map, sample, y, c),
                                      row(map, sample, y + 1, c)},
                                     gradients(y), totals);
                    if (y <= first) continue;
                    Vec factors[TAPS];
                    take_weights(c, true, factors);
                    T *to = grad + offset(sample, y - 1, c);
                    convolve({gradients(y - 2), gradients(y - 1), gradients(y)}, factors, Vec{},
                             sizes.width,
                             [&](int64_t x, Vec sum) {
                                 prefetch_to_write(to + (sizes.width + x) * sizes.channels);
                                 store(to + x * sizes.channels, sum);
                             });
                }
                float *to = sums + task / blocks * (TAPS + 1) * sizes.channels + c;
                for (int i = 0; i <= TAPS; ++i) store(to + i * sizes.channels, totals[i]);
            }
        });
    }

    // Add up the bands' sums, to weights of [channel][tap].
    void add_sums(const float *sums, float *grad_weight, float *grad_bias) const {
        add_rows(sums, bands_of_all(), (TAPS + 1) * sizes.channels, [&](int64_t i, Vec sum) {
            const int64_t tap = i / sizes.channels, channel = i % sizes.channels;
            if (tap == TAPS) return store(grad_bias + channel, sum);
            for (int lane = 0; lane < LANES; ++lane)
                grad_weight[(channel + lane) * TAPS + tap] = sum[lane];
        });
    }

    // The gradients of the sums in a row, of which there are none beyond the map.
    template <bool GELU>
    void compute_gradients(const T *grad_out, int64_t sample, int64_t y, int64_t c,
                           float *to) const {
        if (y < 0 || y >= sizes.height) return std::fill(to, to + sizes.width * LANES, 0.0f);
        const Row<T> grads = row(grad_out, sample, y, c);
        const Row<T> next = row(map, sample, y + 2, c), next_grads = row(grad_out, sample, y + 1, c);
        if constexpr (GELU) {
            Vec factors[TAPS];
            take_weights(c, false, factors);
            convolve(
                {row(map, sample, y - 1, c), row(map, sample, y, c), row(map, sample, y + 1, c)},
                factors, load(bias + c), sizes.width, [&](int64_t x, Vec sum) {
                    next.prefetch(x);
                    next_grads.prefetch(x);
                    store(to + x * LANES, grads.at(x) * gelu_slope<T>(sum));
                });
        } else {
            for (int64_t x = 0; x < sizes.width; ++x) {
                next.prefetch(x);
                next_grads.prefetch(x);
                store(to + x * LANES, grads.at(x));
            }
        }
    }

    // Add what a row's gradients are to those of the weights and of the bias.
    void add_products(const Row<T> (&rows)[3], Row<float> gradients, Vec (&totals)[TAPS + 1]) const {
        Vec sums[TAPS + 1];
        std::copy(totals, totals + TAPS + 1, sums);
        Vec left{}, middle = gradients.at(0);
        for (int64_t x = 0; x < sizes.width; ++x) {
            const Vec right = x + 1 < sizes.width ? gradients.at(x + 1) : Vec{};
#pragma GCC unroll 3
            for (int i = 0; i < 3; ++i) {
                const Vec value = rows[i].at(x);
                sums[3 * i] += value * right;
                sums[3 * i + 1] += value * middle;
                sums[3 * i + 2] += value * left;
            }
            sums[TAPS] += middle;
            left = middle;
            middle = right;
        }
        std::copy(sums, sums + TAPS + 1, totals);
    }
};

template <typename F>
void on_threads(int threads, int64_t tasks, F f) {
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads)
    for (int64_t task = 0; task < tasks; ++task) f(task);
}

}  // namespace

#define KERNELS(NAME, T)                                                                           \
    extern "C" void mmdat_depthwise_forward_##NAME(int threads, const Sizes *sizes, const T *map,  \
                                                   const float *weight, const float *bias,         \
                                                   T *out) {                                       \
        const Convolution<T> conv(*sizes, map, weight, bias);                                      \
        on_threads(threads, conv.tasks(), [&](int64_t task) {                                      \
            sizes->gelu ? conv.template forward<true>(task, out)                                   \
                        : conv.template forward<false>(task, out);                                 \
        });                                                                                        \
    }                                                                                              \
    extern "C" void mmdat_depthwise_backward_##NAME(int threads, const Sizes *sizes, const T *map, \
                                                    const float *weight, const float *bias,        \
                                                    const T *grad_out, T *grad,                    \
                                                    float *grad_weight, float *grad_bias) {        \
        const Convolution<T> conv(*sizes, map, weight, bias);                                      \
        Buffer<float> sums(conv.bands_of_all() * (TAPS + 1) * sizes->channels);                    \
        on_threads(threads, conv.tasks(), [&](int64_t task) {                                      \
            sizes->gelu ? conv.template backward<true>(task, grad_out, grad, sums.data())          \
                        : conv.template backward<false>(task, grad_out, grad, sums.data());        \
        });                                                                                        \
        conv.add_sums(sums.data(), grad_weight, grad_bias);                                        \
    }

KERNELS(float32, float)
KERNELS(bfloat16, BFloat16)
