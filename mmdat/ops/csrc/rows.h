// Rows of channels, which kernels take four at a time, so that the sums over their channels are one
// vector, and in chunks, of which a thread takes one.
#pragma once

#include <algorithm>
#include <cmath>

#include "maps.h"
#include "vectors.h"

constexpr int ROWS = 4;  // at a time, of which add_four_sums makes one vector

template <int64_t SIZE>
struct Chunks {
    int64_t rows;

    int64_t count() const { return round_up(rows, SIZE) / SIZE; }

    // Call f(row, how many there are from it on) for the fours of a chunk.
    template <typename F>
    void for_each_four(int64_t chunk, F f) const {
        const int64_t behind = std::min((chunk + 1) * SIZE, rows);
        for (int64_t row = chunk * SIZE; row < behind; row += ROWS)
            f(row, std::min<int64_t>(ROWS, behind - row));
    }
};

// Four rows; the last one once more where there are no others.
template <typename T>
struct Rows {
    const T *data[ROWS];

    Rows(const T *map, int64_t row, int64_t count, int64_t channels) {
        for (int i = 0; i < ROWS; ++i)
            data[i] = map + (row + std::min<int64_t>(i, count - 1)) * channels;
    }

    Vec at(int i, int64_t channel) const { return load(data[i] + channel); }
};

inline void add_four_sums(const Vec (&sums)[ROWS], float (&to)[ROWS]) {
    std::fill(to, to + ROWS, 0.0f);
    add_four_sums(sums[0], sums[1], sums[2], sums[3], to);
}

// The means over the channels of f(number of a row, channel).
template <typename F>
inline void compute_means(int64_t channels, float (&means)[ROWS], F f) {
    Vec sums[ROWS] = {};
    for (int64_t c = 0; c < channels; c += LANES)
#pragma GCC unroll 4
        for (int i = 0; i < ROWS; ++i) sums[i] += f(i, c);
    add_four_sums(sums, means);
    for (float &mean : means) mean /= float(channels);
}

// Rows as LayerNorm normalizes them.
template <typename T>
struct NormalizedRows {
    Rows<T> rows;
    float means[ROWS], factors[ROWS];  // the factors are 1 / sqrt(variance + epsilon)

    NormalizedRows(const Rows<T> &x, int64_t channels, float epsilon) : rows(x) {
        float rests[ROWS], variances[ROWS];
        compute_means(channels, means, [&](int i, int64_t c) { return x.at(i, c); });
        // What rounding left out of the mean is not small where the channels are alike.
        compute_means(channels, rests, [&](int i, int64_t c) { return x.at(i, c) - means[i]; });
        for (int i = 0; i < ROWS; ++i) means[i] += rests[i];
        compute_means(channels, variances, [&](int i, int64_t c) {
            const Vec distance = x.at(i, c) - means[i];
            return distance * distance;
        });
        for (int i = 0; i < ROWS; ++i) factors[i] = 1 / std::sqrt(variances[i] + epsilon);
    }

    Vec at(int i, int64_t channel) const { return (rows.at(i, channel) - means[i]) * factors[i]; }
};
