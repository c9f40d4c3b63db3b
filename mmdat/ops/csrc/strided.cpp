// A convolution of each channel by itself over a channels-last map, of any kernel, stride and padding.
// Groups of channels share their weights.
//
// A thread takes rows of what is computed. Sums for weights are of bands of rows, whatever the number
// of threads.

#include <algorithm>

#include "maps.h"
#include "vectors.h"

namespace {

constexpr int64_t BAND = 2;  // rows of the output, of which sums for weights are

// The fields of both are in the order in which Python gives them.
struct Axis {
    int64_t size, outputs, taps, stride, padding;

    // Where the map lies under the first tap of an output.
    int64_t start(int64_t output) const { return output * stride - padding; }

    // Call f(position, tap) for all that an output sees.
    template <typename F>
    void for_each_seen(int64_t output, F f) const {
        const int64_t first = start(output);
        for (int64_t tap = std::max<int64_t>(0, -first); tap < std::min(taps, size - first); ++tap)
            f(first + tap, tap);
    }

    // Call f(output, tap) for all that see a position.
    template <typename F>
    void for_each_seeing(int64_t position, F f) const {
        int64_t output = std::min((position + padding) / stride, outputs - 1);
        for (int64_t tap; output >= 0 && (tap = position - start(output)) < taps; --output)
            f(output, tap);
    }
};

struct Sizes {
    int64_t batch, channels, weights;  // channels that have weights of their own
    Axis rows, columns;

    int64_t taps() const { return rows.taps * columns.taps; }

    int64_t in(int64_t sample, int64_t row, int64_t column) const {
        return ((sample * rows.size + row) * columns.size + column) * channels;
    }

    int64_t out(int64_t sample, int64_t row, int64_t column) const {
        return ((sample * rows.outputs + row) * columns.outputs + column) * channels;
    }

    int64_t tap(int64_t row, int64_t column) const {
        return (row * columns.taps + column) * weights;
    }
};

// From [channel][tap] to [tap][channel].
Buffer<float> arrange(const Sizes &sizes, const float *weight) {
    Buffer<float> arranged(sizes.taps() * sizes.weights);
    for (int64_t c = 0; c < sizes.weights; ++c)
        for (int64_t tap = 0; tap < sizes.taps(); ++tap)
            arranged[tap * sizes.weights + c] = weight[c * sizes.taps() + tap];
    return arranged;
}

// Call f(channel, the one of its weights) for each vector of channels.
template <typename F>
void for_each_vector(const Sizes &sizes, F f) {
    for (int64_t group = 0; group < sizes.channels; group += sizes.weights)
        for (int64_t c = 0; c < sizes.weights; c += LANES) f(group + c, c);
}

// Sums for the channels of a position.
struct Sums {
    const Sizes &sizes;
    Buffer<float> numbers;

    explicit Sums(const Sizes &sizes) : sizes(sizes), numbers(sizes.channels) {}

    void start(const float *bias) {
        for_each_vector(sizes, [&](int64_t c, int64_t of_weights) {
            store(numbers.data() + c, bias ? load(bias + of_weights) : Vec{});
        });
    }

    template <typename T>
    void add(const T *from, const float *factors) {
        for_each_vector(sizes, [&](int64_t c, int64_t of_weights) {
            float *sum = numbers.data() + c;
            store(sum, load(sum) + load(from + c) * load(factors + of_weights));
        });
    }

    template <typename T>
    void put(T *to) {
        for_each_vector(sizes, [&](int64_t c, int64_t) { store(to + c, load(numbers.data() + c)); });
    }
};

template <typename T>
void forward(int threads, const Sizes &sizes, const T *map, const float *weight, const float *bias,
             T *out) {
    const Buffer<float> weights = arrange(sizes, weight);
#pragma omp parallel num_threads(threads)
    {
        Sums sums(sizes);
#pragma omp for
        for (int64_t task = 0; task < sizes.batch * sizes.rows.outputs; ++task) {
            const int64_t sample = task / sizes.rows.outputs, row = task % sizes.rows.outputs;
            for (int64_t column = 0; column < sizes.columns.outputs; ++column) {
                sums.start(bias);
                sizes.rows.for_each_seen(row, [&](int64_t y, int64_t tap_y) {
                    sizes.columns.for_each_seen(column, [&](int64_t x, int64_t tap_x) {
                        sums.add(map + sizes.in(sample, y, x),
                                 weights.data() + sizes.tap(tap_y, tap_x));
                    });
                });
                sums.put(out + sizes.out(sample, row, column));
            }
        }
    }
}

template <typename T>
void differentiate_map(int threads, const Sizes &sizes, const float *weight, const T *grad_out,
                       T *grad) {
    const Buffer<float> weights = arrange(sizes, weight);
#pragma omp parallel num_threads(threads)
    {
        Sums sums(sizes);
#pragma omp for
        for (int64_t task = 0; task < sizes.batch * sizes.rows.size; ++task) {
            const int64_t sample = task / sizes.rows.size, y = task % sizes.rows.size;
            for (int64_t x = 0; x < sizes.columns.size; ++x) {
                sums.start(nullptr);
                sizes.rows.for_each_seeing(y, [&](int64_t row, int64_t tap_y) {
                    sizes.columns.for_each_seeing(x, [&](int64_t column, int64_t tap_x) {
                        sums.add(grad_out + sizes.out(sample, row, column),
                                 weights.data() + sizes.tap(tap_y, tap_x));
                    });
                });
                sums.put(grad + sizes.in(sample, y, x));
            }
        }
    }
}

template <typename T>
void differentiate_weights(int threads, const Sizes &sizes, const T *map, const T *grad_out,
                           float *grad_weight, float *grad_bias) {
    const int64_t bands = round_up(sizes.rows.outputs, BAND) / BAND;
    const int64_t of_band = (sizes.taps() + 1) * sizes.weights;  // [tap, and bias at last][channel]
    Buffer<float> sums(sizes.batch * bands * of_band);
#pragma omp parallel for num_threads(threads)
    for (int64_t band = 0; band < sizes.batch * bands; ++band) {
        const int64_t sample = band / bands, first = band % bands * BAND;
        float *to = sums.data() + band * of_band;
        for (int64_t row = first; row < std::min(first + BAND, sizes.rows.outputs); ++row)
            for (int64_t column = 0; column < sizes.columns.outputs; ++column) {
                const T *gradients = grad_out + sizes.out(sample, row, column);
                sizes.rows.for_each_seen(row, [&](int64_t y, int64_t tap_y) {
                    sizes.columns.for_each_seen(column, [&](int64_t x, int64_t tap_x) {
                        const T *from = map + sizes.in(sample, y, x);
                        float *of_tap = to + sizes.tap(tap_y, tap_x);
                        for_each_vector(sizes, [&](int64_t c, int64_t of_weights) {
                            float *sum = of_tap + of_weights;
                            store(sum, load(sum) + load(gradients + c) * load(from + c));
                        });
                    });
                });
                for_each_vector(sizes, [&](int64_t c, int64_t of_weights) {
                    float *sum = to + sizes.taps() * sizes.weights + of_weights;
                    store(sum, load(sum) + load(gradients + c));
                });
            }
    }
    add_rows(sums.data(), sizes.batch * bands, of_band, [&](int64_t i, Vec sum) {
        const int64_t tap = i / sizes.weights, channel = i % sizes.weights;
        if (tap == sizes.taps()) return store(grad_bias + channel, sum);
        for (int lane = 0; lane < LANES; ++lane)
            grad_weight[(channel + lane) * sizes.taps() + tap] = sum[lane];
    });
}

}  // namespace

#define KERNELS(NAME, T)                                                                           \
    extern "C" void mmdat_strided_forward_##NAME(int threads, const Sizes *sizes, const T *map,    \
                                                 const float *weight, const float *bias, T *out) { \
        forward<T>(threads, *sizes, map, weight, bias, out);                                       \
    }                                                                                              \
    extern "C" void mmdat_strided_backward_##NAME(int threads, const Sizes *sizes, const T *map,   \
                                                  const float *weight, const T *grad_out, T *grad, \
                                                  float *grad_weight, float *grad_bias) {          \
        differentiate_map<T>(threads, *sizes, weight, grad_out, grad);                             \
        differentiate_weights<T>(threads, *sizes, map, grad_out, grad_weight, grad_bias);          \
    }

KERNELS(float32, float)
KERNELS(bfloat16, BFloat16)
