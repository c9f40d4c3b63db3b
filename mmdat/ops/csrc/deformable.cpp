// Deformable attention with a relative position bias table, on CPUs.
//
// A tile of queries is a few rows high and a vector wide. It meets the keys block by block, so that
// logits stay in the cache. Seen from one key, the queries of a tile look at a small window of the
// table. The bias of the tile is interpolated along the columns once for each row of the window,
// where a query finds its two entries by a permutation of a vector, and then between these rows.
//
// Positions in the table are measured in entries, and logits are in base 2. The backward pass
// recomputes each tile. Its sums are in chunks of the map that do not depend on the number of
// threads.

#include <algorithm>
#include <cmath>
#include <vector>

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

struct Tile {
    int64_t sample, head, row, column;
    int rows, columns, panels;
};

struct Inputs {
    Sizes sizes;
    Axis rows, columns;
    Map<const float> query;
    const float *locations;
    int64_t padded_keys, key_dims, value_dims, table_stride, table_size, bands, column_tiles;
    std::vector<float> keys, values, table;

    Inputs(const Sizes &sizes, Map<const float> query, const float *key, const float *value,
           const float *locations, const float *bias_table)
        : sizes(sizes), rows(sizes.height, sizes.table_height),
          columns(sizes.width, sizes.table_width), query(query), locations(locations),
          padded_keys(round_up(sizes.keys, GROUP)), key_dims(round_up(sizes.head_dim, LANES)),
          value_dims(round_up(sizes.value_dim, LANES)),
          table_stride(sizes.table_width + 2 * MARGIN),
          table_size((sizes.table_height + 2 * MARGIN) * table_stride),
          bands((sizes.height + MAX_ROWS - 1) / MAX_ROWS),
          column_tiles((sizes.width + LANES - 1) / LANES),
          keys(pack(key, sizes.head_dim, key_dims, LOG2_E / std::sqrt(float(sizes.head_dim)))),
          values(pack(value, sizes.value_dim, value_dims, 1)), table(sizes.heads * table_size) {
        for (int64_t row = 0; row < sizes.heads * sizes.table_height; ++row) {
            const int64_t head = row / sizes.table_height, y = row % sizes.table_height;
            float *to = table.data() + head * table_size + (y + MARGIN) * table_stride + MARGIN;
            for (int64_t x = 0; x < sizes.table_width; ++x)
                to[x] = LOG2_E * bias_table[row * sizes.table_width + x];
        }
    }

    // Pad keys to a multiple of GROUP and their channels to whole vectors.
    std::vector<float> pack(const float *x, int64_t dims, int64_t padded_dims, float scale) const {
        std::vector<float> packed(sizes.batch * sizes.heads * padded_keys * padded_dims);
        for (int64_t pair = 0; pair < sizes.batch * sizes.heads; ++pair)
            for (int64_t key = 0; key < sizes.keys; ++key)
                for (int64_t dim = 0; dim < dims; ++dim)
                    packed[(pair * padded_keys + key) * padded_dims + dim] =
                        scale * x[(pair * sizes.keys + key) * dims + dim];
        return packed;
    }

    int64_t pairs() const { return sizes.batch * sizes.heads; }

    int64_t pair(const Tile &tile) const { return tile.sample * sizes.heads + tile.head; }

    // The tile in one of the bands, which are about equally high, of a sample and head.
    Tile tile(int64_t pair, int64_t band, int64_t column_tile) const {
        const int64_t panels = (sizes.height + PANEL - 1) / PANEL;
        const int64_t first = panels * band / bands, behind = panels * (band + 1) / bands;
        const int64_t row = first * PANEL, column = column_tile * LANES;
        return {pair / sizes.heads,
                pair % sizes.heads,
                row,
                column,
                int(std::min(behind * PANEL, sizes.height) - row),
                int(std::min<int64_t>(LANES, sizes.width - column)),
                int(behind - first)};
    }
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

    Window(const Inputs &in, const Tile &tile, int64_t key) {
        const int64_t group = tile.head / (in.sizes.heads / in.sizes.groups);
        const float *location =
            in.locations + 2 * ((tile.sample * in.sizes.groups + group) * in.sizes.keys + key);
        const double y = in.rows.position(location[0], tile.row);
        const double x = in.columns.position(location[1], tile.column);
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
void write_biases(const Inputs &in, const Tile &tile, int64_t first_key, int64_t count,
                  float *logits) {
    const float *table = in.table.data() + tile.head * in.table_size;
    for (int64_t k = 0; k < count; ++k) {
        float *to = logits + k * WIDTH;
        if (first_key + k >= in.sizes.keys) {
            for (int row = 0; row < tile.panels * PANEL; ++row)
                store(to + row / PANEL * STRIP + row % PANEL * LANES, splat(NEVER));
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

// Copy the queries of a tile, or what is like them, to [panel][channel][query]; zeros elsewhere.
void take(const Map<const float> &map, const Tile &tile, int64_t dims, int64_t padded_dims,
          float *to) {
    std::fill(to, to + tile.panels * padded_dims * WIDTH, 0.0f);
    for (int row = 0; row < tile.rows; ++row)
        for (int column = 0; column < tile.columns; ++column) {
            const float *from =
                map.at(tile.sample, tile.head, tile.row + row, tile.column + column);
            float *query = to + row / PANEL * padded_dims * WIDTH + row % PANEL * LANES + column;
            for (int64_t dim = 0; dim < dims; ++dim)
                query[dim * WIDTH] = from[dim * map.strides[4]];
        }
}

// Inverse of take.
void put(const float *from, const Tile &tile, int64_t dims, int64_t padded_dims, float scale,
         const Map<float> &map) {
    for (int row = 0; row < tile.rows; ++row)
        for (int column = 0; column < tile.columns; ++column) {
            float *to = map.at(tile.sample, tile.head, tile.row + row, tile.column + column);
            const float *query =
                from + row / PANEL * padded_dims * WIDTH + row % PANEL * LANES + column;
            for (int64_t dim = 0; dim < dims; ++dim)
                to[dim * map.strides[4]] = scale * query[dim * WIDTH];
        }
}

// Call f(number of a query in the tile, index in a contiguous Tensor[batch, heads, height, width]).
template <typename F>
void for_each_query(const Inputs &in, const Tile &tile, F f) {
    for (int row = 0; row < tile.rows; ++row)
        for (int column = 0; column < tile.columns; ++column)
            f(row * LANES + column,
              (in.pair(tile) * in.sizes.height + tile.row + row) * in.sizes.width + tile.column +
                  column);
}

class Forward {
  public:
    explicit Forward(const Inputs &in)
        : in(in), queries(MAX_PANELS * in.key_dims * WIDTH),
          outputs(MAX_PANELS * in.value_dims * WIDTH), logits(MAX_PANELS * STRIP) {}

    void attend(const Tile &tile, const Map<float> &out, float *lse) {
        take(in.query, tile, in.sizes.head_dim, in.key_dims, queries.data());
        std::fill(outputs.begin(), outputs.end(), 0.0f);
        Vec highest[MAX_PANELS][PANEL], sums[MAX_PANELS][PANEL];
        for (int panel = 0; panel < tile.panels; ++panel)
            for (int n = 0; n < PANEL; ++n) {
                highest[panel][n] = splat(-INFINITY);
                sums[panel][n] = Vec{};
            }
        for (int64_t first = 0; first < in.padded_keys; first += KEY_BLOCK) {
            const int64_t count = std::min<int64_t>(KEY_BLOCK, in.padded_keys - first);
            write_biases(in, tile, first, count, logits.data());
            for (int panel = 0; panel < tile.panels; ++panel)
                add_keys(tile, panel, first, count, highest[panel], sums[panel]);
        }
        const float *flat_sums = (const float *)sums, *flat_highest = (const float *)highest;
        for (int panel = 0; panel < tile.panels; ++panel)
            for (int64_t dim = 0; dim < in.sizes.value_dim; ++dim) {
                float *to = outputs.data() + (panel * in.value_dims + dim) * WIDTH;
                for (int n = 0; n < PANEL; ++n)
                    store(to + n * LANES, load(to + n * LANES) / sums[panel][n]);
            }
        put(outputs.data(), tile, in.sizes.value_dim, in.value_dims, 1, out);
        for_each_query(in, tile, [&](int query, int64_t index) {
            lse[index] = flat_highest[query] + std::log2(flat_sums[query]);
        });
    }

  private:
    const Inputs &in;
    std::vector<float> queries, outputs, logits;

    // Go on with the softmax and the sums of values of a panel, whose biases are in the logits.
    void add_keys(const Tile &tile, int panel, int64_t first, int64_t count, Vec *highest,
                  Vec *sums) {
        float *strip = logits.data() + panel * STRIP;
        const float *keys = in.keys.data() + (in.pair(tile) * in.padded_keys + first) * in.key_dims;
        const float *values =
            in.values.data() + (in.pair(tile) * in.padded_keys + first) * in.value_dims;
        float *out = outputs.data() + panel * in.value_dims * WIDTH;
        Vec maxima[PANEL], alpha[PANEL];
        std::copy(highest, highest + PANEL, maxima);
        multiply<PANEL>(
            keys, in.key_dims, 1, count, in.sizes.head_dim,
            queries.data() + panel * in.key_dims * WIDTH, WIDTH,
            [&](int64_t key, int n) { return load(strip + key * WIDTH + n * LANES); },
            [&](int64_t key, int n, Vec logit) {
                maxima[n] = larger(logit, maxima[n]);
                store(strip + key * WIDTH + n * LANES, logit);
            });
        for (int n = 0; n < PANEL; ++n) {
            alpha[n] = exp2(highest[n] - maxima[n]);
            highest[n] = maxima[n];
            Vec total = sums[n] * alpha[n];
            for (int64_t key = 0; key < count; ++key) {
                float *logit = strip + key * WIDTH + n * LANES;
                const Vec weight = exp2(load(logit) - maxima[n]);
                total += weight;
                store(logit, weight);
            }
            sums[n] = total;
        }
        multiply<PANEL>(
            values, 1, in.value_dims, in.value_dims, count, strip, WIDTH,
            [&](int64_t dim, int n) { return alpha[n] * load(out + dim * WIDTH + n * LANES); },
            [&](int64_t dim, int n, Vec sum) { store(out + dim * WIDTH + n * LANES, sum); });
    }
};

// Gradients of what belongs to the keys of a sample and head, from a chunk of its queries.
struct KeySums {
    std::vector<float> keys, values, locations, table;  // the table is padded

    explicit KeySums(const Inputs &in)
        : keys(in.padded_keys * in.key_dims), values(in.padded_keys * in.value_dims),
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

class Backward {
  public:
    explicit Backward(const Inputs &in)
        : in(in), dims(std::max(in.key_dims, in.value_dims)), queries(MAX_PANELS * dims * WIDTH),
          grad_outs(queries.size()), grad_queries(queries.size()), query_rows(queries.size()),
          grad_out_rows(queries.size()), weights(MAX_PANELS * STRIP), grads(MAX_PANELS * STRIP) {}

    void add_gradients(const Tile &tile, const Map<const float> &grad_out, const float *lse,
                       const float *delta, const Map<float> &grad_query, KeySums &sums) {
        take(in.query, tile, in.sizes.head_dim, in.key_dims, queries.data());
        take(grad_out, tile, in.sizes.value_dim, in.value_dims, grad_outs.data());
        transpose(tile, queries.data(), in.key_dims, query_rows.data());
        transpose(tile, grad_outs.data(), in.value_dims, grad_out_rows.data());
        std::fill(grad_queries.begin(), grad_queries.end(), 0.0f);
        std::fill(lses, lses + MAX_ROWS * LANES, -NEVER);  // no weights where there is no query
        std::fill(deltas, deltas + MAX_ROWS * LANES, 0.0f);
        for_each_query(in, tile, [&](int query, int64_t index) {
            lses[query] = lse[index];
            deltas[query] = delta[index];
        });
        for (int64_t first = 0; first < in.padded_keys; first += KEY_BLOCK) {
            const int64_t count = std::min<int64_t>(KEY_BLOCK, in.padded_keys - first);
            write_biases(in, tile, first, count, weights.data());
            for (int panel = 0; panel < tile.panels; ++panel)
                add_panel(tile, panel, first, count, sums);
            add_bias_gradients(tile, first, std::min(count, in.sizes.keys - first), sums);
        }
        put(grad_queries.data(), tile, in.sizes.head_dim, in.key_dims, 1 / LOG2_E, grad_query);
    }

  private:
    const Inputs &in;
    int64_t dims;
    std::vector<float> queries, grad_outs, grad_queries, query_rows, grad_out_rows, weights, grads;
    float lses[MAX_ROWS * LANES], deltas[MAX_ROWS * LANES];

    // [panel][channel][query] -> [panel][query][channel].
    static void transpose(const Tile &tile, const float *from, int64_t dims, float *to) {
        for (int panel = 0; panel < tile.panels; ++panel, from += dims * WIDTH, to += dims * WIDTH)
            for (int64_t dim = 0; dim < dims; ++dim)
                for (int query = 0; query < WIDTH; ++query)
                    to[query * dims + dim] = from[dim * WIDTH + query];
    }

    // Compute weights and gradients of logits of a panel, and the gradients of its factors.
    void add_panel(const Tile &tile, int panel, int64_t first, int64_t count, KeySums &sums) {
        float *weight = weights.data() + panel * STRIP, *grad = grads.data() + panel * STRIP;
        const int64_t first_key = in.pair(tile) * in.padded_keys + first;
        const float *keys = in.keys.data() + first_key * in.key_dims;
        const float *values = in.values.data() + first_key * in.value_dims;
        const float *lse = lses + panel * WIDTH, *delta = deltas + panel * WIDTH;
        float *grad_query = grad_queries.data() + panel * in.key_dims * WIDTH;
        multiply<PANEL>(
            keys, in.key_dims, 1, count, in.sizes.head_dim,
            queries.data() + panel * in.key_dims * WIDTH, WIDTH,
            [=](int64_t key, int n) { return load(weight + key * WIDTH + n * LANES); },
            [=](int64_t key, int n, Vec logit) { store(weight + key * WIDTH + n * LANES, logit); });
        for (int n = 0; n < PANEL; ++n)
            for (int64_t key = 0; key < count; ++key) {
                float *logit = weight + key * WIDTH + n * LANES;
                store(logit, exp2(load(logit) - load(lse + n * LANES)));
            }
        multiply<PANEL>(
            values, in.value_dims, 1, count, in.sizes.value_dim,
            grad_outs.data() + panel * in.value_dims * WIDTH, WIDTH,
            [=](int64_t, int n) { return -load(delta + n * LANES); },
            [=](int64_t key, int n, Vec difference) {
                const int64_t at = key * WIDTH + n * LANES;
                store(grad + at, difference * load(weight + at));
            });
        multiply<PANEL>(
            keys, 1, in.key_dims, in.key_dims, count, grad, WIDTH,
            [=](int64_t dim, int n) { return load(grad_query + dim * WIDTH + n * LANES); },
            [=](int64_t dim, int n, Vec sum) { store(grad_query + dim * WIDTH + n * LANES, sum); });
        add_products(weight, grad_out_rows.data() + panel * in.value_dims * WIDTH, in.value_dims,
                     count, sums.values.data() + first * in.value_dims);
        add_products(grad, query_rows.data() + panel * in.key_dims * WIDTH, in.key_dims, count,
                     sums.keys.data() + first * in.key_dims);
    }

    // Add the products of [key][query] and [query][channel] to [key][channel].
    static void add_products(const float *left, const float *right, int64_t dims, int64_t count,
                             float *to) {
        int64_t dim = 0;
        for (; dim + 2 * LANES <= dims; dim += 2 * LANES)
            add_columns<2>(left, right + dim, dims, count, to + dim);
        if (dim < dims) add_columns<1>(left, right + dim, dims, count, to + dim);
    }

    template <int N>
    static void add_columns(const float *left, const float *right, int64_t dims, int64_t count,
                            float *to) {
        multiply<N>(
            left, WIDTH, 1, count, WIDTH, right, dims,
            [=](int64_t key, int n) { return load(to + key * dims + n * LANES); },
            [=](int64_t key, int n, Vec sum) { store(to + key * dims + n * LANES, sum); });
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
    void add(const Inputs &in, int64_t pair, const KeySums &sums) const {
        const Sizes &sizes = in.sizes;
        const int64_t head = pair % sizes.heads, group = head / (sizes.heads / sizes.groups);
        add_rows(sums.keys, in.key_dims, sizes.keys, sizes.head_dim,
                 1 / std::sqrt(float(sizes.head_dim)), key + pair * sizes.keys * sizes.head_dim);
        add_rows(sums.values, in.value_dims, sizes.keys, sizes.value_dim, 1,
                 value + pair * sizes.keys * sizes.value_dim);
        // A key that moves by 1 moves what the queries look at by a quarter of the table back.
        const double factors[] = {in.rows.factor, in.columns.factor};
        float *location = locations + (pair / sizes.heads * sizes.groups + group) * 2 * sizes.keys;
        for (int64_t i = 0; i < 2 * sizes.keys; ++i)
            location[i] -= float(factors[i % 2]) / LOG2_E * sums.locations[i];
        for (int64_t y = 0; y < sizes.table_height; ++y)
            for (int64_t x = 0; x < sizes.table_width; ++x) {
                table[(head * sizes.table_height + y) * sizes.table_width + x] +=
                    sums.table[(y + MARGIN) * in.table_stride + x + MARGIN];
            }
    }

  private:
    static void add_rows(const std::vector<float> &from, int64_t stride, int64_t rows,
                         int64_t columns, float factor, float *to) {
        for (int64_t row = 0; row < rows; ++row)
            for (int64_t column = 0; column < columns; ++column)
                to[row * columns + column] += factor * from[row * stride + column];
    }
};

}  // namespace

extern "C" void mmdat_deformable_forward(int threads, const Sizes *sizes, const float *query,
                                         const int64_t *query_strides, const float *key,
                                         const float *value, const float *locations,
                                         const float *table, float *out,
                                         const int64_t *out_strides, float *lse) {
    const Inputs in(*sizes, {query, query_strides}, key, value, locations, table);
    const int64_t tiles = in.bands * in.column_tiles;
#pragma omp parallel num_threads(threads)
    {
        Forward forward(in);
#pragma omp for schedule(dynamic, 4)
        for (int64_t index = 0; index < in.pairs() * tiles; ++index) {
            const int64_t tile = index % tiles;
            forward.attend(
                in.tile(index / tiles, tile / in.column_tiles, tile % in.column_tiles),
                {out, out_strides}, lse);
        }
    }
}

// The gradients of all but the query are zeros before.
extern "C" void mmdat_deformable_backward(int threads, const Sizes *sizes, const float *query,
                                          const int64_t *query_strides, const float *key,
                                          const float *value, const float *locations,
                                          const float *table, const float *grad_out,
                                          const int64_t *grad_out_strides, const float *lse,
                                          const float *delta, float *grad_query,
                                          const int64_t *grad_query_strides, float *grad_key,
                                          float *grad_value, float *grad_locations,
                                          float *grad_table) {
    const Inputs in(*sizes, {query, query_strides}, key, value, locations, table);
    const Gradients gradients{grad_key, grad_value, grad_locations, grad_table};
    const int64_t chunks =
        std::min(in.bands, (CHUNKS + in.pairs() - 1) / std::max<int64_t>(1, in.pairs()));
#pragma omp parallel num_threads(threads)
    {
        Backward backward(in);
#pragma omp for schedule(dynamic, 1) ordered
        for (int64_t index = 0; index < in.pairs() * chunks; ++index) {
            const int64_t pair = index / chunks, chunk = index % chunks;
            KeySums sums(in);
            for (int64_t band = in.bands * chunk / chunks; band < in.bands * (chunk + 1) / chunks;
                 ++band)
                for (int64_t column_tile = 0; column_tile < in.column_tiles; ++column_tile)
                    backward.add_gradients(in.tile(pair, band, column_tile),
                                           {grad_out, grad_out_strides}, lse, delta,
                                           {grad_query, grad_query_strides}, sums);
            // In order, so that sums are rounded alike on any number of threads.
#pragma omp ordered
            gradients.add(in, pair, sums);
        }
    }
}
