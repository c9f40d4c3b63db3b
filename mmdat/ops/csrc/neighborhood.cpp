// Attention to windows of a map with a relative position bias table, on CPUs: to that nearest to
// each query, neighborhood attention, or to that of a partition in which the query lies.
//
// A tile of queries takes a copy of its keys and values, so that those of a window are close to each
// other in the cache. Each query meets the keys of its window four at a time, so that the sums over
// the channels of four products are one vector. Biases are copied for each place that a query may
// have in its window: all but the queries near a border are in the middle.
//
// Logits are in base 2. The backward pass recomputes them. Its sums are in tiles that do not depend
// on the number of threads.

#include <algorithm>
#include <cmath>
#include <vector>

#include "maps.h"
#include "vectors.h"

namespace {

// Rows and columns of queries in a tile.
constexpr int64_t TILE_HEIGHT = 16, TILE_WIDTH = 64;

// The fields are in the order in which Python gives them.
struct Sizes {
    int64_t batch, heads, height, width, head_dim, kernel_size, partition;
};

template <typename T>
struct Inputs {
    const Sizes sizes;
    const Map<const T> query, key, value;
    const int64_t taps, padded_taps, table_size, tile_rows, tile_columns;
    const float scale;     // of products, for logits in base 2
    Buffer<float> biases;  // [head][place of the query in the window][tap]

    Inputs(const Sizes &sizes, Map<const T> query, Map<const T> key, Map<const T> value,
           const float *table)
        : sizes(sizes), query(query), key(key), value(value),
          taps(sizes.kernel_size * sizes.kernel_size), padded_taps(round_up(taps, LANES)),
          table_size((2 * sizes.kernel_size - 1) * (2 * sizes.kernel_size - 1)),
          tile_rows((sizes.height + TILE_HEIGHT - 1) / TILE_HEIGHT),
          tile_columns((sizes.width + TILE_WIDTH - 1) / TILE_WIDTH),
          scale(LOG2_E / std::sqrt(float(sizes.head_dim))),
          biases(sizes.heads * taps * padded_taps, NEVER) {
        for (int64_t head = 0; head < sizes.heads; ++head)
            for (int64_t place = 0; place < taps; ++place)
                for (int64_t tap = 0; tap < taps; ++tap)
                    biases[(head * taps + place) * padded_taps + tap] =
                        LOG2_E * table[head * table_size + entry(place, tap)];
    }

    // The entry of the bias table for a place of the query in the window and a tap.
    int64_t entry(int64_t place, int64_t tap) const {
        const int64_t size = sizes.kernel_size;
        const int64_t row = tap / size - place / size + size - 1;
        return row * (2 * size - 1) + tap % size - place % size + size - 1;
    }

    // The first position of a window. At a border a neighborhood is moved inside the map; a window
    // of a partition may end beyond it.
    int64_t first(int64_t position, int64_t size) const {
        if (sizes.partition) return position / sizes.kernel_size * sizes.kernel_size;
        return std::clamp<int64_t>(position - sizes.kernel_size / 2, 0, size - sizes.kernel_size);
    }

    bool contains(int64_t row, int64_t column) const {
        return row < sizes.height && column < sizes.width;
    }

    // The first row or column of one of some tiles, which do not cut the windows of a partition.
    int64_t tile_start(int64_t tile, int64_t tiles, int64_t size) const {
        const int64_t unit = sizes.partition ? sizes.kernel_size : 1;
        return std::min((size + unit - 1) / unit * tile / tiles * unit, size);
    }

    int64_t tiles() const { return sizes.batch * sizes.heads * tile_rows * tile_columns; }
};

// Queries of a sample and head, and the part of the map that their windows cover.
struct Tile {
    int64_t sample, head, row, last_row, column, last_column;
    int64_t top, left, height, width;

    template <typename T>
    Tile(const Inputs<T> &in, int64_t index) {
        const Sizes &sizes = in.sizes;
        // Heads follow each other, since they lie together in memory.
        head = index % sizes.heads;
        const int64_t tile_column = index / sizes.heads % in.tile_columns;
        const int64_t tile_row = index / sizes.heads / in.tile_columns % in.tile_rows;
        sample = index / sizes.heads / in.tile_columns / in.tile_rows;
        row = in.tile_start(tile_row, in.tile_rows, sizes.height);
        last_row = in.tile_start(tile_row + 1, in.tile_rows, sizes.height) - 1;
        column = in.tile_start(tile_column, in.tile_columns, sizes.width);
        last_column = in.tile_start(tile_column + 1, in.tile_columns, sizes.width) - 1;
        top = in.first(row, sizes.height);
        left = in.first(column, sizes.width);
        height = in.first(last_row, sizes.height) + sizes.kernel_size - top;
        width = in.first(last_column, sizes.width) + sizes.kernel_size - left;
    }
};

// Room for the work of a thread, which takes heads of up to DIMS channels.
template <typename T, int DIMS>
class Worker {
  public:
    explicit Worker(const Inputs<T> &in) : in(in), weights(in.padded_taps), grads(in.padded_taps) {}

    void attend(const Tile &tile, const Map<T> &out, float *lse) {
        take_keys(tile);
        for_each_query(tile, [&](int64_t row, int64_t column, int64_t window, const float *bias) {
            Vec query[VECTORS], sums[VECTORS];
            read(in.query, tile.sample, tile.head, row, column, in.scale, query);
            std::copy(bias, bias + in.padded_taps, weights.data());
            add_products(query, keys.data() + window, weights.data());
            exclude_outside(row, column, weights.data());
            const float highest = maximum(weights.data());
            Vec total{};
            for (int64_t tap = 0; tap < in.padded_taps; tap += LANES) {
                const Vec weight = exp2(load(&weights[tap]) - highest);
                total += weight;
                store(&weights[tap], weight);
            }
            const float denominator = sum(total);
            weighted_sum(weights.data(), values.data() + window, sums);
            write(sums, 1 / denominator, out, tile.sample, tile.head, row, column);
            lse[flat(tile, row, column)] = highest + std::log2(denominator);
        });
    }

    // Compute the gradients of a tile's queries; keep those of keys, values and biases.
    void differentiate(const Tile &tile, const Map<const T> &grad_out, const float *lse,
                       const Map<T> &grad_query) {
        take_keys(tile);
        grad_keys.assign(keys.size(), 0);
        grad_values.assign(keys.size(), 0);
        grad_biases.assign(in.taps * in.padded_taps, 0);
        const float *first_bias = in.biases.data() + tile.head * grad_biases.size();
        for_each_query(tile, [&](int64_t row, int64_t column, int64_t window, const float *bias) {
            const int64_t index = flat(tile, row, column);
            Vec query[VECTORS], grad[VECTORS], sums[VECTORS];
            read(in.query, tile.sample, tile.head, row, column, in.scale, query);
            read(grad_out, tile.sample, tile.head, row, column, 1, grad);
            std::copy(bias, bias + in.padded_taps, weights.data());
            add_products(query, keys.data() + window, weights.data());
            exclude_outside(row, column, weights.data());
            std::fill(grads.begin(), grads.end(), 0.0f);
            add_products(grad, values.data() + window, grads.data());
            Vec total{}, products{};
            for (int64_t tap = 0; tap < in.padded_taps; tap += LANES) {
                const Vec weight = exp2(load(&weights[tap]) - lse[index]);
                total += weight;
                products += weight * load(&grads[tap]);
                store(&weights[tap], weight);
            }
            // What rounding does to logits since lse was computed grows with them: let weights add
            // up to 1 again.
            const float factor = 1 / sum(total), mean = factor * sum(products);
            float *grad_bias = grad_biases.data() + (bias - first_bias);
            for (int64_t tap = 0; tap < in.padded_taps; tap += LANES) {
                const Vec weight = factor * load(&weights[tap]);
                const Vec grad_logit = weight * (load(&grads[tap]) - mean);
                store(&weights[tap], weight);
                store(&grads[tap], grad_logit);
                store(grad_bias + tap, load(grad_bias + tap) + grad_logit);
            }
            weighted_sum(grads.data(), keys.data() + window, sums);
            write(sums, in.scale / LOG2_E, grad_query, tile.sample, tile.head, row, column);
            add_weighted(grads.data(), query, grad_keys.data() + window);
            add_weighted(weights.data(), grad, grad_values.data() + window);
        });
    }

    // Add what was kept to gradients that begin as zeros.
    void add_gradients(const Tile &tile, const Map<float> &grad_key, const Map<float> &grad_value,
                       float *grad_table) const {
        int64_t from = 0;
        for (int64_t row = tile.top; row < tile.top + tile.height; ++row)
            for (int64_t column = tile.left; column < tile.left + tile.width;
                 ++column, from += DIMS) {
                if (!in.contains(row, column)) continue;
                // The queries were scaled for logits in base 2.
                add_to(grad_key, tile, row, column, 1 / LOG2_E, &grad_keys[from]);
                add_to(grad_value, tile, row, column, 1, &grad_values[from]);
            }
        for (int64_t place = 0; place < in.taps; ++place)
            for (int64_t tap = 0; tap < in.taps; ++tap)
                grad_table[tile.head * in.table_size + in.entry(place, tap)] +=
                    grad_biases[place * in.padded_taps + tap];
    }

  private:
    static constexpr int VECTORS = DIMS / LANES;

    const Inputs<T> &in;
    Buffer<float> keys, values, grad_keys, grad_values, grad_biases, weights, grads;
    std::vector<int64_t> offsets;  // from the first key of a window to each, in fours

    void take_keys(const Tile &tile) {
        keys.resize(tile.height * tile.width * DIMS);
        values.resize(keys.size());
        int64_t to = 0;
        for (int64_t row = tile.top; row < tile.top + tile.height; ++row)
            for (int64_t column = tile.left; column < tile.left + tile.width; ++column, to += DIMS) {
                if (!in.contains(row, column)) {
                    std::fill_n(&keys[to], DIMS, 0.0f);
                    std::fill_n(&values[to], DIMS, 0.0f);
                    continue;
                }
                copy_in(in.key, tile.sample, tile.head, row, column, &keys[to]);
                copy_in(in.value, tile.sample, tile.head, row, column, &values[to]);
            }
        offsets.clear();
        for (int64_t tap = 0; tap < round_up(in.taps, 4); ++tap) {
            const int64_t real = std::min(tap, in.taps - 1), size = in.sizes.kernel_size;
            offsets.push_back((real / size * tile.width + real % size) * DIMS);
        }
    }

    // Call f(row, column, offset of the window in the keys, biases of the window).
    template <typename F>
    void for_each_query(const Tile &tile, F f) const {
        const float *biases = in.biases.data() + tile.head * in.taps * in.padded_taps;
        for (int64_t row = tile.row; row <= tile.last_row; ++row)
            for (int64_t column = tile.column; column <= tile.last_column; ++column) {
                const int64_t top = in.first(row, in.sizes.height);
                const int64_t left = in.first(column, in.sizes.width);
                const int64_t place = (row - top) * in.sizes.kernel_size + column - left;
                f(row, column, ((top - tile.top) * tile.width + left - tile.left) * DIMS,
                  biases + place * in.padded_taps);
            }
    }

    // Index in a contiguous Tensor[batch, heads, height, width].
    int64_t flat(const Tile &tile, int64_t row, int64_t column) const {
        const int64_t pair = tile.sample * in.sizes.heads + tile.head;
        return (pair * in.sizes.height + row) * in.sizes.width + column;
    }

    // How many of the DIMS channels from one on are real.
    int64_t rest(int64_t dim) const { return in.sizes.head_dim - dim; }

    // Copy a head of a map; what is left of the DIMS channels becomes zero.
    void copy_in(const Map<const T> &map, int64_t sample, int64_t head, int64_t row, int64_t column,
                 float *to) const {
        const T *from = map.at(sample, head, row, column);
        for (int i = 0; i < DIMS; i += LANES) store(to + i, load(from + i, rest(i)));
    }

    void read(const Map<const T> &map, int64_t sample, int64_t head, int64_t row, int64_t column,
              float factor, Vec *to) const {
        const T *from = map.at(sample, head, row, column);
        // Queries are far from each other in memory, and work on one is long.
        for (int i = 0; i < DIMS; i += 16) prefetch(from + 3 * map.strides[3] + i);
        for (int i = 0; i < VECTORS; ++i)
            to[i] = factor * load(from + i * LANES, rest(i * LANES));
    }

    void write(const Vec *from, float factor, const Map<T> &map, int64_t sample, int64_t head,
               int64_t row, int64_t column) const {
        T *to = map.at(sample, head, row, column);
        for (int i = 0; i < VECTORS; ++i) store(to + i * LANES, factor * from[i], rest(i * LANES));
    }

    void add_to(const Map<float> &map, const Tile &tile, int64_t row, int64_t column, float factor,
                const float *from) const {
        float *to = map.at(tile.sample, tile.head, row, column);
        for (int i = 0; i < DIMS; i += LANES)
            store(to + i, load(to + i, rest(i)) + factor * load(from + i), rest(i));
    }

    // Add the products of a vector and those of a window.
    void add_products(const Vec *x, const float *window, float *to) const {
        const int64_t *offset = offsets.data(), *end = offset + offsets.size();
        for (; offset < end; offset += 4, to += 4) {
            Vec products[4];
#pragma GCC unroll 4
            for (int i = 0; i < 4; ++i) {
                const float *y = window + offset[i];
                products[i] = x[0] * load(y);
#pragma GCC unroll 4
                for (int j = 1; j < VECTORS; ++j) products[i] += x[j] * load(y + j * LANES);
            }
            add_four_sums(products[0], products[1], products[2], products[3], to);
        }
    }

    // Add up the vectors of a window with weights, in two sums that need not wait for each other.
    void weighted_sum(const float *weights, const float *window, Vec *sums) const {
        Vec others[VECTORS] = {};
        for (int i = 0; i < VECTORS; ++i) sums[i] = Vec{};
        int64_t tap = 0;
        for (; tap + 1 < in.taps; tap += 2) {
            const float *first = window + offsets[tap], *second = window + offsets[tap + 1];
#pragma GCC unroll 4
            for (int i = 0; i < VECTORS; ++i) {
                sums[i] += weights[tap] * load(first + i * LANES);
                others[i] += weights[tap + 1] * load(second + i * LANES);
            }
        }
        for (int i = 0; i < VECTORS; ++i)  // windows have an odd number of taps
            sums[i] += others[i] + weights[tap] * load(window + offsets[tap] + i * LANES);
    }

    // Add multiples of a vector to those of a window.
    void add_weighted(const float *weights, const Vec *x, float *window) const {
        // Copies, since a compiler must think that any store might change the originals.
        Vec kept[VECTORS];
        std::copy(x, x + VECTORS, kept);
        const int64_t *offset = offsets.data(), *end = offset + in.taps;
        for (; offset < end; ++offset) {
            const float weight = *weights++;
            float *to = window + *offset;
#pragma GCC unroll 4
            for (int i = 0; i < VECTORS; ++i)
                store(to + i * LANES, load(to + i * LANES) + weight * kept[i]);
        }
    }

    // Set the logits of keys beyond the map to minus infinity.
    void exclude_outside(int64_t row, int64_t column, float *logits) const {
        if (!in.sizes.partition) return;
        const int64_t size = in.sizes.kernel_size;
        const int64_t rows = in.sizes.height - in.first(row, in.sizes.height);
        const int64_t columns = in.sizes.width - in.first(column, in.sizes.width);
        if (rows >= size && columns >= size) return;
        for (int64_t tap = 0; tap < in.taps; ++tap)
            if (tap / size >= rows || tap % size >= columns) logits[tap] = NEVER;
    }

    float maximum(const float *logits) const {
        Vec highest = load(logits);
        for (int64_t tap = LANES; tap < in.padded_taps; tap += LANES)
            highest = larger(load(logits + tap), highest);
        float found = highest[0];
        for (int lane = 1; lane < LANES; ++lane) found = std::max(found, highest[lane]);
        return found;
    }
};

// Call f with the worker of the width that heads need, on as many threads as there are.
template <typename T, typename F>
void on_threads(int threads, const Inputs<T> &in, F f) {
#pragma omp parallel num_threads(threads)
    {
        if (in.sizes.head_dim <= 16)
            f(Worker<T, 16>(in));
        else
            f(Worker<T, 32>(in));
    }
}

template <typename T>
void attend(int threads, const Inputs<T> &in, const Map<T> &out, float *lse) {
    on_threads(threads, in, [&](auto worker) {
#pragma omp for schedule(dynamic, 1)
        for (int64_t index = 0; index < in.tiles(); ++index)
            worker.attend(Tile(in, index), out, lse);
    });
}

template <typename T>
void differentiate(int threads, const Inputs<T> &in, const Map<const T> &grad_out, const float *lse,
                   const Map<T> &grad_query, const Map<float> &grad_key,
                   const Map<float> &grad_value, float *grad_table) {
    on_threads(threads, in, [&](auto worker) {
#pragma omp for schedule(dynamic, 1) ordered
        for (int64_t index = 0; index < in.tiles(); ++index) {
            const Tile tile(in, index);
            worker.differentiate(tile, grad_out, lse, grad_query);
            // In order, so that sums are rounded alike on any number of threads.
#pragma omp ordered
            worker.add_gradients(tile, grad_key, grad_value, grad_table);
        }
    });
}

}  // namespace

// The gradients of all but the query are zeros before.
#define KERNELS(NAME, T)                                                                           \
    extern "C" void mmdat_neighborhood_forward_##NAME(                                             \
        int threads, const Sizes *sizes, const T *query, const int64_t *query_strides,             \
        const T *key, const int64_t *key_strides, const T *value, const int64_t *value_strides,    \
        const float *table, T *out, const int64_t *out_strides, float *lse) {                      \
        const Inputs<T> in(*sizes, {query, query_strides}, {key, key_strides},                     \
                           {value, value_strides}, table);                                         \
        attend<T>(threads, in, {out, out_strides}, lse);                                           \
    }                                                                                              \
    extern "C" void mmdat_neighborhood_backward_##NAME(                                            \
        int threads, const Sizes *sizes, const T *query, const int64_t *query_strides,             \
        const T *key, const int64_t *key_strides, const T *value, const int64_t *value_strides,    \
        const float *table, const T *grad_out, const int64_t *grad_out_strides, const float *lse,  \
        T *grad_query, const int64_t *grad_query_strides, float *grad_key,                         \
        const int64_t *grad_key_strides, float *grad_value, const int64_t *grad_value_strides,     \
        float *grad_table) {                                                                       \
        const Inputs<T> in(*sizes, {query, query_strides}, {key, key_strides},                     \
                           {value, value_strides}, table);                                         \
        differentiate<T>(threads, in, {grad_out, grad_out_strides}, lse,                           \
                         {grad_query, grad_query_strides}, {grad_key, grad_key_strides},           \
                         {grad_value, grad_value_strides}, grad_table);                            \
    }

KERNELS(float32, float)
KERNELS(bfloat16, BFloat16)
