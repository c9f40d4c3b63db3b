// Deformable attention with a relative position bias table, and attention without one, on CPUs.
//
// A tile of queries is a few rows high and a vector wide. Where the last columns of the map fill little
// of a vector, their tiles are turned: a vector high and a few columns wide, with rows and columns of
// map and table swapped. A tile meets the keys block by block, so that logits stay in the cache. Seen
// from one key, the queries of a tile look at a small window of the table. The bias of the tile is
// interpolated along the columns once for each row of the window, where a query finds its two entries
// by a permutation of a vector, and then between these rows.
//
// Positions in the table are measured in entries, and logits are in base 2. The backward pass
// recomputes each tile. Its sums are in chunks of the map that do not depend on the number of
// threads.

#include <algorithm>
#include <cfloat>
#include <cmath>

#include "maps.h"
#include "vectors.h"

namespace {

constexpr int PANEL = 3;  // vectors of queries that a product takes at a time, one above the other
constexpr int WIDTH = PANEL * LANES;
constexpr int MAX_PANELS = 5;
constexpr int MAX_ROWS = PANEL * MAX_PANELS;
constexpr int ROW_VECTORS = (MAX_ROWS + LANES - 1) / LANES;
constexpr int KEY_BLOCK = 64;
constexpr int STRIP = KEY_BLOCK * WIDTH;  // numbers for the pairs of a panel and a block of keys
// What products take rows of the left matrix and sum in multiples of.
template <typename T>
constexpr int UNIT = PACK<T> == 1 ? GROUP : Tiles::UNIT;
// Queries of a panel where products sum over them, with zeros behind them.
template <typename T>
constexpr int PADDED_WIDTH = round_up(WIDTH, UNIT<T>);
// Rows of the table that a tile reaches, as no query looks further than an entry from its neighbor.
constexpr int MAX_ENTRIES = MAX_ROWS + 1;
// Zeros around the table, for all that looks beyond it.
constexpr int MARGIN = std::max<int>(round_up(LANES + 1, 4), MAX_ENTRIES) + 1;
// So many chunks of the maps keep all cores busy in the backward pass.
constexpr int64_t CHUNKS = 32;

// The fields are in the order in which Python gives them.
struct Sizes {
    int64_t batch, heads, groups, height, width, keys, head_dim, value_dim, table_height,
        table_width;
};

// One axis of the map and of the table.
struct Axis {
    double origin, factor, step;
    int64_t entries;

    Axis(int64_t size, int64_t entries)
        : origin(size > 1 ? 1 : 2), factor((entries - 1) / 4.0),
          step(size > 1 ? (entries - 1) / 2.0 / (size - 1) : 0), entries(entries) {}

    // Where the query at an index looks, seen from a key.
    double position(float location, int64_t index) const {
        return (origin - location) * factor + step * index;
    }

    // The entry before a position. Beyond the margins all is zero, so that any entry there will do.
    int64_t entry(double position) const {
        const double floor = std::floor(position);
        // Comparisons that are false where the position is no number.
        return floor > -MARGIN ? (floor < entries ? int64_t(floor) : entries) : -MARGIN;
    }
};

// Rows and columns are its own; those of the map are at its first query.
struct Tile {
    int64_t sample, head, map_row, map_column;
    int rows, columns, panels;
    bool turned;

    // Call f(row, column) of the map for a query.
    template <typename F>
    auto in_map(int row, int column, F f) const {
        return turned ? f(map_row + column, map_column + row) : f(map_row + row, map_column + column);
    }

    template <typename T>
    T *at(const Map<T> &map, int row, int column) const {
        return in_map(row, column, [&](int64_t y, int64_t x) { return map.at(sample, head, y, x); });
    }
};

// Columns of the map that are covered by tiles that are turned, or by such that are not.
struct Part {
    int64_t first, columns;
    bool turned;

    static std::vector<Part> parts(const Sizes &sizes) {
        const int64_t rest = sizes.width % LANES, whole = sizes.width - rest;
        const int64_t vectors = round_up(sizes.height, PANEL);
        const int64_t turned_vectors = round_up(rest, PANEL) * (round_up(sizes.height, LANES) / LANES);
        // Three quarters, as a second pass over the keys costs something, too.
        if (!rest || 4 * turned_vectors > 3 * vectors) return {{0, sizes.width, false}};
        std::vector<Part> parts{{whole, rest, true}};
        if (whole) parts.push_back({0, whole, false});
        return parts;
    }
};

// What the kernels know of queries, keys and table, whatever the type of the maps.
struct Geometry {
    Sizes sizes;
    Part part;
    Axis rows, columns;  // of tiles, as the fields below are
    int64_t height, width;
    const float *locations;  // null where there is no bias
    float scale;  // of products, for natural logits
    int64_t table_stride, table_size, bands, column_tiles;
    Buffer<float> table;

    Geometry(const Sizes &sizes, const Part &part, const float *locations, const float *bias_table)
        : sizes(sizes), part(part), rows(sizes.height, sizes.table_height),
          columns(sizes.width, sizes.table_width), height(sizes.height), width(part.columns),
          locations(locations), scale(1 / std::sqrt(float(sizes.head_dim))) {
        if (part.turned) {
            std::swap(rows, columns);
            std::swap(height, width);
        }
        table_stride = columns.entries + 2 * MARGIN;
        table_size = (rows.entries + 2 * MARGIN) * table_stride;
        bands = (height + MAX_ROWS - 1) / MAX_ROWS;
        column_tiles = (width + LANES - 1) / LANES;
        table.resize(sizes.heads * table_size);
        for (int64_t head = 0; head < sizes.heads; ++head)
            for_each_entry(head, [&](int64_t entry, int64_t padded) {
                table[head * table_size + padded] = LOG2_E * bias_table[entry];
            });
    }

    // Call f(index in the table, index in a head's padded one) for each entry of a head.
    template <typename F>
    void for_each_entry(int64_t head, F f) const {
        for (int64_t row = 0; row < rows.entries; ++row)
            for (int64_t column = 0; column < columns.entries; ++column) {
                const int64_t y = part.turned ? column : row, x = part.turned ? row : column;
                f((head * sizes.table_height + y) * sizes.table_width + x,
                  (row + MARGIN) * table_stride + column + MARGIN);
            }
    }

    int64_t pairs() const { return sizes.batch * sizes.heads; }

    // Whether something is added to logits of a block of keys; it ends those of keys past the last.
    bool biased(int64_t first_key, int64_t count) const {
        return locations || first_key + count > sizes.keys;
    }

    int64_t pair(const Tile &tile) const { return tile.sample * sizes.heads + tile.head; }

    // The tile in one of the bands, which are about equally high, of a sample and head.
    Tile tile(int64_t pair, int64_t band, int64_t column_tile) const {
        const int64_t panels = (height + PANEL - 1) / PANEL;
        const int64_t first = panels * band / bands, behind = panels * (band + 1) / bands;
        const int64_t row = first * PANEL, column = column_tile * LANES;
        return {pair / sizes.heads,
                pair % sizes.heads,
                part.turned ? column : row,
                part.first + (part.turned ? row : column),
                int(std::min(behind * PANEL, height) - row),
                int(std::min<int64_t>(LANES, width - column)),
                int(behind - first),
                part.turned};
    }
};

// The keys or values of all samples and heads, padded with zeros, as left matrices of products that
// sum over channels, over keys, or both.
template <typename T>
struct Factors {
    int64_t keys, dims;
    int64_t columns;  // channels where they are the columns of a product
    Buffer<T> by_key;  // [key][channel]
    Buffer<T> by_dim;  // [block of keys][channel][key of the block]

    Factors(int threads, const Sizes &sizes, const T *x, int64_t real_dims, bool over_channels,
            bool over_keys)
        : keys(round_up(sizes.keys, UNIT<T>)), dims(round_up(real_dims, UNIT<T>)),
          columns(round_up(real_dims, LANES)) {
        const int64_t pairs = sizes.batch * sizes.heads;
        if (over_channels) by_key.resize(pairs * keys * dims);
        if (over_keys) by_dim.resize(pairs * round_up(keys, KEY_BLOCK) * dims);
#pragma omp parallel for num_threads(threads)
        for (int64_t pair = 0; pair < pairs; ++pair)
            for (int64_t key = 0; key < sizes.keys; ++key) {
                const T *from = x + (pair * sizes.keys + key) * real_dims;
                if (over_channels)
                    std::copy(from, from + real_dims, by_key.data() + (pair * keys + key) * dims);
                if (!over_keys) continue;
                T *column = by_dim.data() + block(pair, key) + key % KEY_BLOCK;
                for (int64_t dim = 0; dim < real_dims; ++dim) column[dim * KEY_BLOCK] = from[dim];
            }
    }

    const T *of_keys(int64_t pair, int64_t key) const {
        return by_key.data() + (pair * keys + key) * dims;
    }

    const T *of_dims(int64_t pair, int64_t key) const { return by_dim.data() + block(pair, key); }

  private:
    int64_t block(int64_t pair, int64_t key) const {
        return (pair * round_up(keys, KEY_BLOCK) + key / KEY_BLOCK * KEY_BLOCK) * dims;
    }
};

template <typename T>
struct Inputs : Geometry {
    Map<const T> query;
    const Factors<T> &keys, &values;

    Inputs(const Sizes &sizes, const Part &part, Map<const T> query, const Factors<T> &keys,
           const Factors<T> &values, const float *locations, const float *table)
        : Geometry(sizes, part, locations, table), query(query), keys(keys), values(values) {}
};

// What a tile sees of the table from a key: for each row and column of queries, the row or column
// of the window before it, and how far behind that it looks.
struct Window {
    int64_t offset;  // of the first entry, in the padded table
    int row_entries;
    IntVec column_entries;
    Vec column_distances;
    int32_t rows[ROW_VECTORS * LANES];
    float row_distances[ROW_VECTORS * LANES];

    Window(const Geometry &in, const Tile &tile, int64_t key) {
        const int64_t group = tile.head / (in.sizes.heads / in.sizes.groups);
        const float *location =
            in.locations + 2 * ((tile.sample * in.sizes.groups + group) * in.sizes.keys + key);
        const double y = tile.turned ? in.rows.position(location[1], tile.map_column)
                                     : in.rows.position(location[0], tile.map_row);
        const double x = tile.turned ? in.columns.position(location[0], tile.map_row)
                                     : in.columns.position(location[1], tile.map_column);
        offset = (in.rows.entry(y) + MARGIN) * in.table_stride + in.columns.entry(x) + MARGIN;
        row_entries = int(std::ceil((tile.panels * PANEL - 1) * in.rows.step)) + 2;
        split(float(x - std::floor(x)), float(in.columns.step), 0, LANES - 1, column_entries,
              column_distances);
        for (int i = 0; i < ROW_VECTORS; ++i) {
            IntVec entries;
            Vec distances;
            split(float(y - std::floor(y)), float(in.rows.step), i * LANES, row_entries - 2,
                  entries, distances);
            std::memcpy(rows + i * LANES, &entries, sizeof entries);
            store(row_distances + i * LANES, distances);
        }
    }

    // Split the positions of queries into entries and the distances from them.
    static void split(float first, float step, int index, int last_entry, IntVec &entries,
                      Vec &distances) {
        const Vec positions = to_float(lane_numbers() + index) * step + first;
        entries = truncate(positions);
        entries = entries > last_entry ? IntVec{} + last_entry : entries;  // where it is rounded up
        entries = entries < 0 ? IntVec{} : entries;  // where it is no number
        distances = positions - to_float(entries);
    }
};

// What a row of a window holds at the queries' columns, and its slope there.
struct Interpolated {
    Vec value, slope;

    Interpolated(const Window &window, const float *row) {
        const Vec first = load(row);
        slope = __builtin_shuffle(load(row + 1) - first, window.column_entries);
        value = __builtin_shuffle(first, window.column_entries) + window.column_distances * slope;
    }
};

// Write the biases of a tile and a block of keys to [panel][key][row of the panel][column].
void write_biases(const Geometry &in, const Tile &tile, int64_t first_key, int64_t count,
                  float *logits) {
    const float *table = in.table.data() + tile.head * in.table_size;
    for (int64_t k = 0; k < count; ++k) {
        float *to = logits + k * WIDTH;
        const bool real = first_key + k < in.sizes.keys;
        if (!real || !in.locations) {
            for (int row = 0; row < tile.panels * PANEL; ++row)
                store(to + row / PANEL * STRIP + row % PANEL * LANES, splat(real ? 0 : NEVER));
            continue;
        }
        const Window window(in, tile, first_key + k);
        Vec values[MAX_ENTRIES], differences[MAX_ENTRIES];
        for (int entry = 0; entry < window.row_entries; ++entry) {
            values[entry] =
                Interpolated(window, table + window.offset + entry * in.table_stride).value;
            if (entry > 0) differences[entry - 1] = values[entry] - values[entry - 1];
        }
        for (int panel = 0, row = 0; panel < tile.panels; ++panel, to += STRIP)
            for (int n = 0; n < PANEL; ++n, ++row) {
                const int entry = window.rows[row];
                store(to + n * LANES,
                      values[entry] + window.row_distances[row] * differences[entry]);
            }
    }
}

// Copy the queries of a tile, or what is like them, to [panel][channel][query], as right matrices of
// products that sum over channels; zeros elsewhere.
template <typename T>
void take(const Map<const T> &map, const Tile &tile, int64_t dims, int64_t padded_dims, float *to) {
    std::fill(to, to + tile.panels * padded_dims / PACK<T> * WIDTH, 0.0f);
    for (int row = 0; row < tile.rows; ++row) {
        float *queries = to + row / PANEL * padded_dims / PACK<T> * WIDTH + row % PANEL * LANES;
        for (int64_t dim = 0; dim < dims; dim += LANES * PACK<T>) {
            const int64_t count = std::min<int64_t>(LANES * PACK<T>, dims - dim);
            Vec lanes[LANES] = {};
            for (int column = 0; column < tile.columns; ++column)
                std::memcpy(&lanes[column], tile.at(map, row, column) + dim, count * sizeof(T));
            transpose(lanes);
            for (int64_t i = 0; i * PACK<T> < count; ++i)
                store(queries + (dim / PACK<T> + i) * WIDTH, lanes[i]);
        }
    }
}

// Copy them to [panel][query][channel], as right matrices of products that sum over queries.
template <typename T>
void take_rows(const Map<const T> &map, const Tile &tile, int64_t dims, float *to) {
    const int64_t columns = round_up(dims, LANES);
    for (int row = 0; row < tile.panels * PANEL; ++row) {
        float *queries = to + (row / PANEL * PADDED_WIDTH<T> + row % PANEL * LANES) / PACK<T> * columns;
        for (int column = 0; column < LANES; column += PACK<T>)
            for (int64_t dim = 0; dim < columns; dim += LANES, queries += LANES) {
                Vec numbers[PACK<T>] = {};
                for (int i = 0; i < PACK<T>; ++i)
                    if (row < tile.rows && column + i < tile.columns)
                        numbers[i] = load(tile.at(map, row, column + i) + dim, dims - dim);
                store(queries, pack(numbers));
            }
    }
}

// Copy the outputs of a tile, or what is like them, from [panel][channel][query].
template <typename T>
void put(const float *from, const Tile &tile, int64_t dims, int64_t padded_dims, float scale,
         const Map<T> &map) {
    for (int row = 0; row < tile.rows; ++row) {
        const float *queries = from + row / PANEL * padded_dims * WIDTH + row % PANEL * LANES;
        for (int64_t dim = 0; dim < dims; dim += LANES) {
            const int64_t count = std::min<int64_t>(LANES, dims - dim);
            Vec lanes[LANES] = {};
            for (int64_t i = 0; i < count; ++i) lanes[i] = scale * load(queries + (dim + i) * WIDTH);
            transpose(lanes);
            for (int column = 0; column < tile.columns; ++column)
                store(tile.at(map, row, column) + dim, lanes[column], count);
        }
    }
}

// Call f(number of a query in the tile, index in a contiguous Tensor[batch, heads, height, width]).
template <typename F>
void for_each_query(const Geometry &in, const Tile &tile, F f) {
    for (int row = 0; row < tile.rows; ++row)
        for (int column = 0; column < tile.columns; ++column)
            tile.in_map(row, column, [&](int64_t y, int64_t x) {
                f(row * LANES + column,
                  (in.pair(tile) * in.sizes.height + y) * in.sizes.width + x);
            });
}

template <typename T>
class Forward {
  public:
    explicit Forward(const Inputs<T> &in)
        : in(in), queries(MAX_PANELS * in.keys.dims / PACK<T> * WIDTH),
          outputs(MAX_PANELS * in.values.dims * WIDTH), logits(MAX_PANELS * STRIP) {}

    void attend(const Tile &tile, const Map<T> &out, float *lse) {
        take(in.query, tile, in.sizes.head_dim, in.keys.dims, queries.data());
        std::fill(outputs.begin(), outputs.end(), 0.0f);
        Vec highest[MAX_PANELS][PANEL], sums[MAX_PANELS][PANEL];
        for (int panel = 0; panel < tile.panels; ++panel)
            for (int n = 0; n < PANEL; ++n) {
                // Finite, so that keys of which all logits are -INFINITY have weights of zero.
                highest[panel][n] = splat(-FLT_MAX);
                sums[panel][n] = Vec{};
            }
        for (int64_t first = 0; first < in.keys.keys; first += KEY_BLOCK) {
            const int64_t count = std::min<int64_t>(KEY_BLOCK, in.keys.keys - first);
            const bool biased = in.biased(first, count);
            if (biased) write_biases(in, tile, first, count, logits.data());
            for (int panel = 0; panel < tile.panels; ++panel)
                add_keys(tile, panel, first, count, biased, highest[panel], sums[panel]);
        }
        const float *flat_sums = (const float *)sums, *flat_highest = (const float *)highest;
        for (int panel = 0; panel < tile.panels; ++panel)
            for (int64_t dim = 0; dim < in.sizes.value_dim; ++dim) {
                float *to = outputs.data() + (panel * in.values.dims + dim) * WIDTH;
                for (int n = 0; n < PANEL; ++n)
                    store(to + n * LANES, load(to + n * LANES) / sums[panel][n]);
            }
        put(outputs.data(), tile, in.sizes.value_dim, in.values.dims, 1, out);
        for_each_query(in, tile, [&](int query, int64_t index) {
            lse[index] = flat_highest[query] + std::log2(flat_sums[query]);
        });
    }

  private:
    const Inputs<T> &in;
    const Tiles tiles;
    Buffer<float> queries, outputs, logits;

    // Go on with the softmax and the sums of values of a panel, whose biases, if there are any,
    // are in the logits.
    void add_keys(const Tile &tile, int panel, int64_t first, int64_t count, bool biased,
                  Vec *highest, Vec *sums) {
        float *strip = logits.data() + panel * STRIP;
        float *out = outputs.data() + panel * in.values.dims * WIDTH;
        const float scale = LOG2_E * in.scale;
        Vec maxima[PANEL], alpha[PANEL];
        std::copy(highest, highest + PANEL, maxima);
        multiply<PANEL>(in.keys.of_keys(in.pair(tile), first), in.keys.dims, count, in.keys.dims,
                        queries.data() + panel * in.keys.dims / PACK<T> * WIDTH, WIDTH,
                        [&](int64_t key, int n, Vec product) {
                            float *to = strip + key * WIDTH + n * LANES;
                            const Vec logit = (biased ? load(to) : Vec{}) + scale * product;
                            maxima[n] = larger(logit, maxima[n]);
                            store(to, logit);
                        });
        for (int n = 0; n < PANEL; ++n) {
            // More digits, since errors would grow with the number of blocks.
            alpha[n] = exp2(highest[n] - maxima[n]);
            highest[n] = maxima[n];
            Vec total = sums[n] * alpha[n];
            float *from = strip + n * LANES, *to = from;
            for (int64_t key = 0; key < count; key += PACK<T>, to += WIDTH) {
                Vec weights[PACK<T>];
                for (Vec &weight : weights) {
                    weight = exp2<T>(load(from) - maxima[n]);
                    total += weight;
                    from += WIDTH;
                }
                store(to, pack(weights));
            }
            sums[n] = total;
        }
        multiply<PANEL>(in.values.of_dims(in.pair(tile), first), KEY_BLOCK, in.values.dims, count,
                        strip, WIDTH, [&](int64_t dim, int n, Vec product) {
                            float *to = out + dim * WIDTH + n * LANES;
                            store(to, alpha[n] * load(to) + product);
                        });
    }
};

// Gradients of what belongs to the keys of a sample and head, from a chunk of its queries.
struct KeySums {
    Buffer<float> keys, values, locations, table;  // the table is padded

    template <typename T>
    explicit KeySums(const Inputs<T> &in)
        : keys(in.keys.keys * in.keys.columns), values(in.values.keys * in.values.columns),
          locations(2 * in.sizes.keys), table(in.table_size) {}
};

// Weights of the columns of a window for the queries of a row: hat functions.
struct Hats {
    Vec weights[round_up(LANES + 1, 4)];

    Hats(const Window &window, int columns) {
        const Vec positions = to_float(window.column_entries) + window.column_distances;
        for (int column = 0; column < round_up(columns, 4); ++column) {
            const Vec distance = positions - float(column);
            const Vec weight = 1 - larger(distance, -distance);
            weights[column] = larger(weight, Vec{});
        }
    }

    // Add the sums over the queries, in steps of four columns, to a row of the table.
    void add_sums(Vec x, int columns, float *to) const {
        for (int column = 0; column < columns; column += 4)
            add_four_sums(x * weights[column], x * weights[column + 1], x * weights[column + 2],
                          x * weights[column + 3], to + column);
    }
};

template <typename T>
class Backward {
  public:
    explicit Backward(const Inputs<T> &in)
        : in(in), dims(std::max(in.keys.dims, in.values.dims)),
          queries(MAX_PANELS * dims / PACK<T> * WIDTH), grad_outs(queries.size()),
          grad_queries(MAX_PANELS * dims * WIDTH),
          query_rows(MAX_PANELS * round_up(dims, LANES) / PACK<T> * PADDED_WIDTH<T>),
          grad_out_rows(query_rows.size()), weights(MAX_PANELS * STRIP), grads(MAX_PANELS * STRIP),
          grad_pairs(STRIP), weight_rows(KEY_BLOCK * PADDED_WIDTH<T>),
          grad_rows(weight_rows.size()) {}

    void add_gradients(const Tile &tile, const Map<const T> &grad_out, const Map<const T> &out,
                       const float *lse, const Map<T> &grad_query, KeySums &sums) {
        take(in.query, tile, in.sizes.head_dim, in.keys.dims, queries.data());
        take(grad_out, tile, in.sizes.value_dim, in.values.dims, grad_outs.data());
        take_rows(in.query, tile, in.sizes.head_dim, query_rows.data());
        take_rows(grad_out, tile, in.sizes.value_dim, grad_out_rows.data());
        std::fill(grad_queries.begin(), grad_queries.end(), 0.0f);
        std::fill(lses, lses + MAX_ROWS * LANES, -NEVER);  // no weights where there is no query
        for_each_query(in, tile, [&](int query, int64_t index) { lses[query] = lse[index]; });
        compute_deltas(tile, grad_out, out);
        for (int64_t first = 0; first < in.keys.keys; first += KEY_BLOCK) {
            const int64_t count = std::min<int64_t>(KEY_BLOCK, in.keys.keys - first);
            const bool biased = in.biased(first, count);
            if (biased) write_biases(in, tile, first, count, weights.data());
            for (int panel = 0; panel < tile.panels; ++panel)
                add_panel(tile, panel, first, count, biased, sums);
            if (in.locations) add_bias_gradients(tile, first, std::min(count, in.sizes.keys - first), sums);
        }
        put(grad_queries.data(), tile, in.sizes.head_dim, in.keys.dims, in.scale, grad_query);
    }

  private:
    const Inputs<T> &in;
    const Tiles tiles;
    int64_t dims;
    Buffer<float> queries, grad_outs, grad_queries, query_rows, grad_out_rows, weights, grads;
    Buffer<float> grad_pairs;
    Buffer<T> weight_rows, grad_rows;
    float lses[MAX_ROWS * LANES], deltas[MAX_ROWS * LANES];

    // Sum the products of the gradients of outputs and the outputs over the channels.
    void compute_deltas(const Tile &tile, const Map<const T> &grad_out, const Map<const T> &out) {
        std::fill(deltas, deltas + MAX_ROWS * LANES, 0.0f);
        for (int row = 0; row < tile.rows; ++row)
            for (int column = 0; column < tile.columns; ++column) {
                const T *grad = tile.at(grad_out, row, column), *real = tile.at(out, row, column);
                const int64_t dims = in.sizes.value_dim;
                Vec products{};
                for (int64_t dim = 0; dim < dims; dim += LANES)
                    products += load(grad + dim, dims - dim) * load(real + dim, dims - dim);
                deltas[row * LANES + column] = sum(products);
            }
    }

    // Compute weights and gradients of logits of a panel, and the gradients of its factors.
    void add_panel(const Tile &tile, int panel, int64_t first, int64_t count, bool biased,
                   KeySums &sums) {
        float *weight = weights.data() + panel * STRIP, *grad = grads.data() + panel * STRIP;
        const int64_t pair = in.pair(tile), key_dims = in.keys.dims, value_dims = in.values.dims;
        const float *lse = lses + panel * WIDTH, *delta = deltas + panel * WIDTH;
        const float scale = LOG2_E * in.scale;
        float *grad_query = grad_queries.data() + panel * key_dims * WIDTH;
        multiply<PANEL>(in.keys.of_keys(pair, first), key_dims, count, key_dims,
                        queries.data() + panel * key_dims / PACK<T> * WIDTH, WIDTH,
                        [=](int64_t key, int n, Vec product) {
                            float *to = weight + key * WIDTH + n * LANES;
                            const Vec bias = biased ? load(to) : Vec{};
                            store(to, exp2<T>(bias + scale * product - load(lse + n * LANES)));
                        });
        multiply<PANEL>(in.values.of_keys(pair, first), value_dims, count, value_dims,
                        grad_outs.data() + panel * value_dims / PACK<T> * WIDTH, WIDTH,
                        [=](int64_t key, int n, Vec product) {
                            const int64_t at = key * WIDTH + n * LANES;
                            store(grad + at, (product - load(delta + n * LANES)) * load(weight + at));
                        });
        const Packed packed = pack_panel(weight, grad, count);
        multiply<PANEL>(in.keys.of_dims(pair, first), KEY_BLOCK, key_dims, count, packed.grads,
                        WIDTH, [=](int64_t dim, int n, Vec product) {
                            float *to = grad_query + dim * WIDTH + n * LANES;
                            store(to, load(to) + product);
                        });
        const int64_t rows = panel * PADDED_WIDTH<T> / PACK<T>;
        const int64_t key_columns = in.keys.columns, value_columns = in.values.columns;
        add_products(packed.weight_rows, grad_out_rows.data() + rows * value_columns, value_columns,
                     count, sums.values.data() + first * value_columns);
        add_products(packed.grad_rows, query_rows.data() + rows * key_columns, key_columns, count,
                     sums.keys.data() + first * key_columns);
    }

    // The weights and gradients of a panel as factors of products.
    struct Packed {
        const float *grads;  // [key][query], a right matrix
        const T *weight_rows, *grad_rows;  // [key][query], left matrices
    };

    Packed pack_panel(const float *weight, const float *grad, int64_t count) {
        if constexpr (PACK<T> == 1) return {grad, weight, grad};
        else {
            for (int64_t key = 0; key < count; key += 2)
                for (int n = 0; n < WIDTH; n += LANES) {
                    Vec both[2];
                    for (int i = 0; i < 2; ++i) {
                        const int64_t from = (key + i) * WIDTH + n;
                        const int64_t to = (key + i) * PADDED_WIDTH<T> + n;
                        both[i] = load(grad + from);
                        store(grad_rows.data() + to, both[i]);
                        store(weight_rows.data() + to, load(weight + from));
                    }
                    store(grad_pairs.data() + key / 2 * WIDTH + n, pack(both));
                }
            return {grad_pairs.data(), weight_rows.data(), grad_rows.data()};
        }
    }

    // Add the products of [key][query] and [query][channel] to [key][channel].
    static void add_products(const T *left, const float *right, int64_t columns, int64_t count,
                             float *to) {
        // Three vectors at a time, but four as two and two.
        for (int64_t rest = columns / LANES, width; rest > 0; rest -= width) {
            width = rest == 4 ? 2 : std::min<int64_t>(rest, 3);
            const auto add = width == 3   ? add_columns<3>
                             : width == 2 ? add_columns<2>
                                          : add_columns<1>;
            add(left, right, columns, count, to);
            right += width * LANES;
            to += width * LANES;
        }
    }

    template <int N>
    static void add_columns(const T *left, const float *right, int64_t columns, int64_t count,
                            float *to) {
        multiply<N>(left, PADDED_WIDTH<T>, count, PADDED_WIDTH<T>, right, columns,
                    [=](int64_t key, int n, Vec product) {
                        float *sum = to + key * columns + n * LANES;
                        store(sum, load(sum) + product);
                    });
    }

    // Add the gradients of locations and table that follow from those of a block's logits.
    void add_bias_gradients(const Tile &tile, int64_t first, int64_t count, KeySums &sums) {
        const float *table = in.table.data() + tile.head * in.table_size;
        const int columns = int(std::ceil((LANES - 1) * in.columns.step)) + 2;
        for (int64_t key = first; key < first + count; ++key) {
            const Window window(in, tile, key);
            const Hats hats(window, columns);
            // Gradients of the rows of the window, at the queries' columns, and sums of the
            // gradients of queries that look behind each.
            Vec of_row[MAX_ENTRIES], behind_row[MAX_ENTRIES];
            for (int entry = 0; entry < window.row_entries; ++entry)
                of_row[entry] = behind_row[entry] = Vec{};
            const float *grad = grads.data() + (key - first) * WIDTH;
            Vec total{}, lower{};
            int current = window.rows[0];
            const auto close_entry = [&] {
                of_row[current] += total - lower;
                of_row[current + 1] += lower;
                behind_row[current] = total;
            };
            for (int panel = 0, row = 0; panel < tile.panels; ++panel, grad += STRIP)
                for (int n = 0; n < PANEL; ++n, ++row) {
                    if (window.rows[row] != current) {
                        close_entry();
                        total = lower = Vec{};
                        current = window.rows[row];
                    }
                    const Vec x = load(grad + n * LANES);
                    total += x;
                    lower += window.row_distances[row] * x;
                }
            close_entry();
            Vec grad_y{}, grad_x{}, last{};
            for (int entry = 0; entry < window.row_entries; ++entry) {
                const int64_t offset = window.offset + entry * in.table_stride;
                const Interpolated interpolated(window, table + offset);
                if (entry > 0) grad_y += behind_row[entry - 1] * (interpolated.value - last);
                last = interpolated.value;
                grad_x += of_row[entry] * interpolated.slope;
                hats.add_sums(of_row[entry], columns, sums.table.data() + offset);
            }
            sums.locations[2 * key] += sum(grad_y);
            sums.locations[2 * key + 1] += sum(grad_x);
        }
    }
};

struct Gradients {
    float *key, *value, *locations, *table;

    // Add the sums of a chunk of queries of a sample and head.
    template <typename T>
    void add(const Inputs<T> &in, int64_t pair, const KeySums &sums) const {
        const Sizes &sizes = in.sizes;
        const int64_t head = pair % sizes.heads, group = head / (sizes.heads / sizes.groups);
        add_rows(sums.keys, in.keys.columns, sizes.keys, sizes.head_dim, in.scale,
                 key + pair * sizes.keys * sizes.head_dim);
        add_rows(sums.values, in.values.columns, sizes.keys, sizes.value_dim, 1,
                 value + pair * sizes.keys * sizes.value_dim);
        if (!in.locations) return;
        // A key that moves by 1 moves what the queries look at by a quarter of the table back.
        const double factors[] = {in.rows.factor, in.columns.factor};
        float *location = locations + (pair / sizes.heads * sizes.groups + group) * 2 * sizes.keys;
        for (int64_t i = 0; i < 2 * sizes.keys; ++i)
            location[i ^ in.part.turned] -= float(factors[i % 2]) / LOG2_E * sums.locations[i];
        in.for_each_entry(head, [&](int64_t entry, int64_t padded) {
            table[entry] += sums.table[padded];
        });
    }

  private:
    static void add_rows(const Buffer<float> &from, int64_t stride, int64_t rows,
                         int64_t columns, float factor, float *to) {
        for (int64_t row = 0; row < rows; ++row)
            for (int64_t column = 0; column < columns; ++column)
                to[row * columns + column] += factor * from[row * stride + column];
    }
};

template <typename T>
void attend(int threads, const Inputs<T> &in, const Map<T> &out, float *lse) {
    const int64_t tiles = in.bands * in.column_tiles;
#pragma omp parallel num_threads(threads)
    {
        Forward<T> forward(in);
#pragma omp for schedule(dynamic, 4)
        for (int64_t index = 0; index < in.pairs() * tiles; ++index) {
            const int64_t tile = index % tiles;
            forward.attend(
                in.tile(index / tiles, tile / in.column_tiles, tile % in.column_tiles), out, lse);
        }
    }
}

template <typename T>
void differentiate(int threads, const Inputs<T> &in, const Map<const T> &grad_out,
                   const Map<const T> &out, const float *lse, const Map<T> &grad_query,
                   const Gradients &gradients) {
    const int64_t chunks =
        std::min(in.bands, (CHUNKS + in.pairs() - 1) / std::max<int64_t>(1, in.pairs()));
#pragma omp parallel num_threads(threads)
    {
        Backward<T> backward(in);
#pragma omp for schedule(dynamic, 1) ordered
        for (int64_t index = 0; index < in.pairs() * chunks; ++index) {
            const int64_t pair = index / chunks, chunk = index % chunks;
            KeySums sums(in);
            for (int64_t band = in.bands * chunk / chunks; band < in.bands * (chunk + 1) / chunks;
                 ++band)
                for (int64_t column_tile = 0; column_tile < in.column_tiles; ++column_tile)
                    backward.add_gradients(in.tile(pair, band, column_tile), grad_out, out, lse,
                                           grad_query, sums);
            // In order, so that sums are rounded alike on any number of threads.
#pragma omp ordered
            gradients.add(in, pair, sums);
        }
    }
}

}  // namespace

// The gradients of all but the query are zeros before.
#define KERNELS(NAME, T)                                                                           \
    extern "C" void mmdat_deformable_forward_##NAME(                                               \
        int threads, const Sizes *sizes, const T *query, const int64_t *query_strides,             \
        const T *key, const T *value, const float *locations, const float *table, T *out,          \
        const int64_t *out_strides, float *lse) {                                                  \
        const Factors<T> keys(threads, *sizes, key, sizes->head_dim, true, false);                 \
        const Factors<T> values(threads, *sizes, value, sizes->value_dim, false, true);            \
        for (const Part &part : Part::parts(*sizes))                                               \
            attend<T>(threads,                                                                     \
                      {*sizes, part, {query, query_strides}, keys, values, locations, table},      \
                      {out, out_strides}, lse);                                                    \
    }                                                                                              \
    extern "C" void mmdat_deformable_backward_##NAME(                                              \
        int threads, const Sizes *sizes, const T *query, const int64_t *query_strides,             \
        const T *key, const T *value, const float *locations, const float *table,                  \
        const T *grad_out, const int64_t *grad_out_strides, const T *out,                          \
        const int64_t *out_strides, const float *lse, T *grad_query,                               \
        const int64_t *grad_query_strides, float *grad_key, float *grad_value,                     \
        float *grad_locations, float *grad_table) {                                                \
        const Factors<T> keys(threads, *sizes, key, sizes->head_dim, true, true);                  \
        const Factors<T> values(threads, *sizes, value, sizes->value_dim, true, false);            \
        for (const Part &part : Part::parts(*sizes))                                               \
            differentiate<T>(                                                                      \
                threads, {*sizes, part, {query, query_strides}, keys, values, locations, table},   \
                {grad_out, grad_out_strides}, {out, out_strides}, lse,                             \
                {grad_query, grad_query_strides},                                                  \
                {grad_key, grad_value, grad_locations, grad_table});                               \
    }

// Whether products of BFloat16 are faster than those of float, and, since nobody would see others,
// right: those of small whole numbers are exact in any order.
extern "C" int mmdat_multiplies_bfloat16() {
#ifndef __AVX512BF16__
    if (!Tiles::usable()) return false;
#endif
    const Tiles tiles;
    constexpr int ROWS = 32, INNER = 64;
    BFloat16 left[ROWS * INNER], right[INNER * LANES];
    for (int i = 0; i < ROWS * INNER; ++i) assign(left[i], float(i * 7 % 13 - 6));
    for (int i = 0; i < INNER * LANES; ++i) assign(right[i], float(i * 5 % 11 - 5));
    float packed[INNER * LANES / 2], products[ROWS * LANES];
    std::memcpy(packed, right, sizeof right);
    multiply<1>(left, INNER, ROWS, INNER, packed, LANES, [&](int64_t row, int, Vec product) {
        store(products + row * LANES, product);
    });
    for (int i = 0; i < ROWS * LANES; ++i)
        for (int j = 0; j < INNER; ++j) {
            const BFloat16 factor = right[(j / 2 * LANES + i % LANES) * 2 + j % 2];
            products[i] -= to_float(left[i / LANES * INNER + j]) * to_float(factor);
        }
    return std::all_of(products, products + ROWS * LANES, [](float rest) { return rest == 0; });
}

KERNELS(float32, float)
KERNELS(bfloat16, BFloat16)
