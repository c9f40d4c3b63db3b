// Vectors of a CPU's registers, in the extensions of C++ that GCC has for them.
#pragma once

#include <cstdint>
#include <cstring>

#ifdef __AVX512F__
constexpr int LANES = 16;  // 32 registers, of which products take 24 for sums
constexpr int GROUP = 8;   // rows of the left matrix that a product takes at a time
#else
constexpr int LANES = 8;  // 16 registers, of which products take 12 for sums
constexpr int GROUP = 4;
#endif

typedef float Vec __attribute__((vector_size(4 * LANES)));
typedef int32_t IntVec __attribute__((vector_size(4 * LANES)));

constexpr float LOG2_E = 1.44269504f;

inline Vec load(const float *from) {
    Vec x;
    std::memcpy(&x, from, sizeof x);
    return x;
}

inline void store(float *to, Vec x) { std::memcpy(to, &x, sizeof x); }

inline Vec splat(float x) { return x - Vec{}; }  // x + 0 would not be x where x is -0

inline Vec to_float(IntVec x) { return __builtin_convertvector(x, Vec); }

inline IntVec truncate(Vec x) { return __builtin_convertvector(x, IntVec); }

// 0, 1, 2, ...
inline IntVec lane_numbers() {
    IntVec x;
    for (int lane = 0; lane < LANES; ++lane) x[lane] = lane;
    return x;
}

// Where x is no number, y.
inline Vec larger(Vec x, Vec y) { return x > y ? x : y; }

inline float sum(Vec x) {
    float total = 0;
    for (int lane = 0; lane < LANES; ++lane) total += x[lane];
    return total;
}

// 2^x to a relative error of 1e-7; 0 below the least normal number.
inline Vec exp2(Vec x) {
    x = x < -127.0f ? splat(-127.0f) : x;  // stays where it is no number
    x = x > 127.0f ? splat(127.0f) : x;
    // Adding 1.5 * 2^23 rounds to a whole number and leaves it in the lowest bits.
    const Vec shifted = x + 12582912.0f;
    const Vec rest = x - (shifted - 12582912.0f);
    // Polynomial of least relative error in [-0.5, 0.5].
    Vec power = rest * 1.32764713e-3f + 9.67554096e-3f;
    power = power * rest + 5.55071309e-2f;
    power = power * rest + 2.40221202e-1f;
    power = power * rest + 6.93146944e-1f;
    power = power * rest + 1.00000012f;
    return power * (Vec)(((IntVec)shifted + 127) << 23);
}

// Sums of neighboring lanes, of x and y in turn, in each quarter of four lanes.
inline Vec add_neighbors(Vec x, Vec y) {
    IntVec even;
    for (int lane = 0; lane < LANES; ++lane)
        even[lane] = lane / 4 * 4 + lane % 2 * 2 + (lane % 4 < 2 ? 0 : LANES);
    return __builtin_shuffle(x, y, even) + __builtin_shuffle(x, y, even + 1);
}

// Add the sums of the lanes of four vectors to four numbers.
inline void add_four_sums(Vec a, Vec b, Vec c, Vec d, float *to) {
    Vec sums = add_neighbors(add_neighbors(a, b), add_neighbors(c, d));
    for (int half = LANES / 2; half >= 4; half /= 2)
        sums += __builtin_shuffle(sums, (lane_numbers() + half) % LANES);
    for (int i = 0; i < 4; ++i) to[i] += sums[i];
}

// The product of a matrix, whose rows are a multiple of GROUP, and another, of N vectors of columns.
// begin(row, n) gives the vector that a sum starts from, end(row, n, vector) takes the result.
template <int N, typename Begin, typename End>
__attribute__((noinline)) void multiply(const float *left, int64_t row_stride,
                                                    int64_t column_stride, int64_t rows,
                                                    int64_t inner, const float *right,
                                                    int64_t right_stride, Begin begin, End end) {
    for (int64_t row = 0; row < rows; row += GROUP) {
        const float *lefts = left + row * row_stride;
        Vec sums[GROUP][N];
#pragma GCC unroll 8
        for (int g = 0; g < GROUP; ++g)
#pragma GCC unroll 8
            for (int n = 0; n < N; ++n) sums[g][n] = begin(row + g, n);
        for (int64_t i = 0; i < inner; ++i) {
            Vec rights[N];
#pragma GCC unroll 8
            for (int n = 0; n < N; ++n) rights[n] = load(right + i * right_stride + n * LANES);
#pragma GCC unroll 8
            for (int g = 0; g < GROUP; ++g) {
                const Vec factor = splat(lefts[g * row_stride + i * column_stride]);
#pragma GCC unroll 8
                for (int n = 0; n < N; ++n) sums[g][n] += factor * rights[n];
            }
        }
#pragma GCC unroll 8
        for (int g = 0; g < GROUP; ++g)
#pragma GCC unroll 8
            for (int n = 0; n < N; ++n) end(row + g, n, sums[g][n]);
    }
}
