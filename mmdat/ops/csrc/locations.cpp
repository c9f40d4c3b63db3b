// Where the keys of deformable attention lie: LayerNorm, GELU and a product with two rows of weights at
// each position of a channels-last map, for each group of channels alike, move them from a grid.
//
// A group of channels at a position is a row. The backward pass computes the forward pass anew.

#include "gelu.h"
#include "rows.h"

namespace {

// The fields are in the order in which Python gives them.
struct Sizes {
    Chunks<64> rows;  // of which a row of sums is
    int64_t channels, groups, height, width, bounded;
};

// Of the norm, and of the product.
struct Parameters {
    const float *weight, *bias, *y, *x;
};

struct Point {
    float y, x;
};

// Where an offset moves a key from its point of the grid, and the derivative of that.
struct Grid {
    const Sizes &sizes;
    Point reach;  // of offsets that are bounded, by a hyperbolic tangent

    // The location of a row, in the order of the output.
    int64_t index(int64_t row) const {
        const int64_t area = sizes.height * sizes.width;
        const int64_t position = row / sizes.groups, group = row % sizes.groups;
        return (position / area * sizes.groups + group) * area + position % area;
    }

    Point point(int64_t row) const {
        const int64_t position = row / sizes.groups % (sizes.height * sizes.width);
        return {point(position / sizes.width, sizes.height),
                point(position % sizes.width, sizes.width)};
    }

    Point move(Point from, Point offset) const {
        return {move(from.y, offset.y, reach.y), move(from.x, offset.x, reach.x)};
    }

    Point slope(Point from, Point offset) const {
        return {slope(from.y, offset.y, reach.y), slope(from.x, offset.x, reach.x)};
    }

   private:
    static float point(int64_t i, int64_t size) {
        const float middle = (size - 1) / 2.0f;
        return size == 1 ? 0 : (i + (0.5f - middle)) / middle;
    }

    // What is no number stays so.
    float move(float from, float offset, float reach) const {
        if (sizes.bounded) return from + std::tanh(offset) * reach;
        const float to = from + offset;
        return to < -1 ? -1 : to > 1 ? 1 : to;
    }

    float slope(float from, float offset, float reach) const {
        if (sizes.bounded) return (1 - std::tanh(offset) * std::tanh(offset)) * reach;
        const float to = from + offset;
        return to >= -1 && to <= 1;
    }
};

template <typename T>
void compute_offsets(const NormalizedRows<T> &x, int64_t channels, const Parameters &parameters,
                     Point (&offsets)[ROWS]) {
    Vec y_sums[ROWS] = {}, x_sums[ROWS] = {};
    for (int64_t c = 0; c < channels; c += LANES)
#pragma GCC unroll 4
        for (int i = 0; i < ROWS; ++i) {
            const Vec hidden =
                gelu<T>(x.at(i, c) * load(parameters.weight + c) + load(parameters.bias + c));
            y_sums[i] += hidden * load(parameters.y + c);
            x_sums[i] += hidden * load(parameters.x + c);
        }
    float ys[ROWS], xs[ROWS];
    add_four_sums(y_sums, ys);
    add_four_sums(x_sums, xs);
    for (int i = 0; i < ROWS; ++i) offsets[i] = {ys[i], xs[i]};
}

template <typename T>
void forward(int threads, const Sizes &sizes, const T *map, const Parameters &parameters,
             float epsilon, const Grid &grid, Point *out) {
    const int64_t channels = sizes.channels;
#pragma omp parallel for num_threads(threads)
    for (int64_t chunk = 0; chunk < sizes.rows.count(); ++chunk)
        sizes.rows.for_each_four(chunk, [&](int64_t row, int64_t count) {
            const NormalizedRows<T> x(Rows<T>(map, row, count, channels), channels, epsilon);
            Point offsets[ROWS];
            compute_offsets(x, channels, parameters, offsets);
            for (int i = 0; i < count; ++i)
                out[grid.index(row + i)] = grid.move(grid.point(row + i), offsets[i]);
        });
}

template <typename T>
void backward(int threads, const Sizes &sizes, const T *map, const Parameters &parameters,
              float epsilon, const Grid &grid, const Point *grad_out, T *grad, float *grad_norm_weight,
              float *grad_norm_bias, float *grad_weight) {
    const int64_t channels = sizes.channels;
    Buffer<float> sums(sizes.rows.count() * 4 * channels);  // [chunk][weight, bias, y, x][channel]
#pragma omp parallel for num_threads(threads)
    for (int64_t chunk = 0; chunk < sizes.rows.count(); ++chunk) {
        float *to = sums.data() + chunk * 4 * channels;
        Buffer<float> slopes(ROWS * channels);  // gradients of the normalized rows
        sizes.rows.for_each_four(chunk, [&](int64_t row, int64_t count) {
            const NormalizedRows<T> x(Rows<T>(map, row, count, channels), channels, epsilon);
            Point offsets[ROWS], grads[ROWS] = {};
            compute_offsets(x, channels, parameters, offsets);
            for (int i = 0; i < count; ++i) {
                const Point slope = grid.slope(grid.point(row + i), offsets[i]);
                const Point from = grad_out[grid.index(row + i)];
                grads[i] = {from.y * slope.y, from.x * slope.x};
            }
            Vec sums_of_slopes[ROWS] = {}, sums_of_products[ROWS] = {};
            for (int64_t c = 0; c < channels; c += LANES) {
                const Vec weight = load(parameters.weight + c), bias = load(parameters.bias + c);
                const Vec y_weight = load(parameters.y + c), x_weight = load(parameters.x + c);
                Vec to_weight{}, to_bias{}, to_y{}, to_x{};
                for (int i = 0; i < count; ++i) {
                    const Vec value = x.at(i, c), before = value * weight + bias;
                    const Normal<T> normal(before);
                    to_y += grads[i].y * before * normal.integral;
                    to_x += grads[i].x * before * normal.integral;
                    const Vec slope = (grads[i].y * y_weight + grads[i].x * x_weight) *
                                      (normal.integral + before * normal.density);
                    to_weight += slope * value;
                    to_bias += slope;
                    store(slopes.data() + i * channels + c, slope * weight);
                    sums_of_slopes[i] += slope * weight;
                    sums_of_products[i] += slope * weight * value;
                }
                const Vec found[] = {to_weight, to_bias, to_y, to_x};
                for (int i = 0; i < 4; ++i)
                    store(to + i * channels + c, load(to + i * channels + c) + found[i]);
            }
            float means[ROWS], products[ROWS];
            add_four_sums(sums_of_slopes, means);
            add_four_sums(sums_of_products, products);
            for (int i = 0; i < count; ++i)
                for (int64_t c = 0; c < channels; c += LANES) {
                    const Vec rest = load(slopes.data() + i * channels + c) - means[i] / channels -
                                     products[i] / channels * x.at(i, c);
                    store(grad + (row + i) * channels + c, x.factors[i] * rest);
                }
        });
    }
    float *const outputs[] = {grad_norm_weight, grad_norm_bias, grad_weight, grad_weight + channels};
    add_rows(sums.data(), sizes.rows.count(), 4 * channels, [&](int64_t i, Vec sum) {
        store(outputs[i / channels] + i % channels, sum);
    });
}

}  // namespace

// They are named after the type of the map.
#define KERNELS(NAME, T)                                                                           \
    extern "C" void mmdat_locations_forward_##NAME(                                                \
        int threads, const Sizes *sizes, const T *map, const float *norm_weight,                   \
        const float *norm_bias, const float *weight, float epsilon, float y_reach, float x_reach,  \
        Point *out) {                                                                              \
        forward<T>(threads, *sizes, map,                                                           \
                   {norm_weight, norm_bias, weight, weight + sizes->channels}, epsilon,            \
                   {*sizes, {y_reach, x_reach}}, out);                                             \
    }                                                                                              \
    extern "C" void mmdat_locations_backward_##NAME(                                               \
        int threads, const Sizes *sizes, const T *map, const float *norm_weight,                   \
        const float *norm_bias, const float *weight, float epsilon, float y_reach, float x_reach,  \
        const Point *grad_out, T *grad, float *grad_norm_weight, float *grad_norm_bias,            \
        float *grad_weight) {                                                                      \
        backward<T>(threads, *sizes, map,                                                          \
                    {norm_weight, norm_bias, weight, weight + sizes->channels}, epsilon,           \
                    {*sizes, {y_reach, x_reach}}, grad_out, grad, grad_norm_weight,                \
                    grad_norm_bias, grad_weight);                                                  \
    }

KERNELS(float32, float)
KERNELS(bfloat16, BFloat16)
