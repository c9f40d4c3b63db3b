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

    // How many positions of the map, or of the output, there are.
    template <bool MAP>
    int64_t count() const {
        return MAP ? size : outputs;
    }

    // Call f(output, tap) for all that see a position of the map, or f(position, tap) for all that an
    // output sees.
    template <bool MAP, typename F>
    void for_each(int64_t at, F f) const {
        if constexpr (MAP) {
            int64_t output = std::min((at + padding) / stride, outputs - 1);
            for (int64_t tap; output >= 0 && (tap = at - start(output)) < taps; --output)
                f(output, tap);
        } else {
            const int64_t first = start(at), behind = std::min(taps, size - first);
            for (int64_t tap = std::max<int64_t>(0, -first); tap < behind; ++tap) f(first + tap, tap);
        }
    }
};

struct Sizes {
    int64_t batch, channels, weights;  // channels that have weights of their own
    Axis rows, columns;

    int64_t taps() const { return rows.taps * columns.taps; }

    // In the map, or in the output.
    template <bool MAP>
    int64_t offset(int64_t sample, int64_t row, int64_t column) const {
        return ((sample * rows.count<MAP>() + row) * columns.count<MAP>() + column) * channels;
    }

    // Call f(offset, offset of the weights) for all of the output that sees a position of the map, or
    // for all of the map that a position of the output sees.
    template <bool MAP, typename F>
    void for_each(int64_t sample, int64_t row, int64_t column, F f) const {
        rows.for_each<MAP>(row, [&](int64_t y, int64_t tap_y) {
            columns.for_each<MAP>(column, [&](int64_t x, int64_t tap_x) {
                f(offset<!MAP>(sample, y, x), tap(tap_y, tap_x));
            });
        });
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
void along_channels(const Sizes &sizes, F f) {
    for (int64_t group = 0; group < sizes.channels; group += sizes.weights)
        for (int64_t c = 0; c < sizes.weights; c += LANES) f(group + c, c);
}

// Sums for the channels of a position.
struct Sums {
    const Sizes &sizes;
    Buffer<float> numbers;

    explicit Sums(const Sizes &sizes) : sizes(sizes), numbers(sizes.channels) {}

    void start(const float *bias) {
        along_channels(sizes, [&](int64_t c, int64_t of_weights) {
            store(numbers.data() + c, bias ? load(bias + of_weights) : Vec{});
        });
    }

    template <typename T>
    void add(const T *from, const float *factors) {
        along_channels(sizes, [&](int64_t c, int64_t of_weights) {
            float *sum = numbers.data() + c;
            store(sum, load(sum) + load(from + c) * load(factors + of_weights));
        });
    }

    template <typename T>
    void put(T *to) {
        along_channels(sizes, [&](int64_t c, int64_t) { store(to + c, load(numbers.data() + c)); });
    }
};

// Sum what each position of the output sees, or the gradients of what sees each of the map.
template <bool MAP, typename T>
void convolve(int threads, const Sizes &sizes, const T *from, const float *weight,
              const float *bias, T *to) {
    const Buffer<float> weights = arrange(sizes, weight);
    const int64_t rows = sizes.rows.count<MAP>(), columns = sizes.columns.count<MAP>();
#pragma omp parallel num_threads(threads)
    {
        Sums sums(sizes);
#pragma omp for
        for (int64_t task = 0; task < sizes.batch * rows; ++task)
            for (int64_t column = 0; column < columns; ++column) {
                const int64_t sample = task / rows, row = task % rows;
                sums.start(bias);
                sizes.for_each<MAP>(sample, row, column, [&](int64_t at, int64_t tap) {
                    sums.add(from + at, weights.data() + tap);
                });
                sums.put(to + sizes.offset<MAP>(sample, row, column));
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
                const T *gradients = grad_out + sizes.offset<false>(sample, row, column);
                sizes.for_each<false>(sample, row, column, [&](int64_t at, int64_t tap) {
                    along_channels(sizes, [&](int64_t c, int64_t of_weights) {
                        float *sum = to + tap + of_weights;
                        store(sum, load(sum) + load(gradients + c) * load(map + at + c));
                    });
                });
                along_channels(sizes, [&](int64_t c, int64_t of_weights) {
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
        convolve<false, T>(threads, *sizes, map, weight, bias, out);                               \
    }                                                                                              \
    extern "C" void mmdat_strided_backward_##NAME(int threads, const Sizes *sizes, const T *map,   \
                                                  const float *weight, const T *grad_out, T *grad, \
                                                  float *grad_weight, float *grad_bias) {          \
        convolve<true, T>(threads, *sizes, grad_out, weight, nullptr, grad);                       \
        differentiate_weights<T>(threads, *sizes, map, grad_out, grad_weight, grad_bias);          \
    }

KERNELS(float32, float)
KERNELS(bfloat16, BFloat16)
