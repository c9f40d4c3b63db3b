// What kernels share: maps of vectors in any layout, and sizes.
#pragma once

#include <cmath>
#include <cstdint>

constexpr float NEVER = -INFINITY;  // a logit whose weight is zero

constexpr int64_t round_up(int64_t size, int64_t unit) { return (size + unit - 1) / unit * unit; }

// Tensor[batch, heads, height, width, channels] with any strides but that channels follow each other.
template <typename T>
struct Map {
    T *data;
    const int64_t *strides;

    T *at(int64_t sample, int64_t head, int64_t row, int64_t column) const {
        return data + sample * strides[0] + head * strides[1] + row * strides[2] +
               column * strides[3];
    }
};
