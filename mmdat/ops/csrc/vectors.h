// Vectors of a CPU's registers, in the extensions of C++ that GCC has for them.
#pragma once

#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <new>
#include <vector>

#ifdef __AVX512F__
constexpr int LANES = 16;  // 32 registers, of which products take 24 for sums
constexpr int GROUP = 8;   // rows of the left matrix that a product takes at a time
#else
constexpr int LANES = 8;  // 16 registers, of which products take 12 for sums
constexpr int GROUP = 4;
#endif

typedef float Vec __attribute__((vector_size(4 * LANES)));
typedef int32_t IntVec __attribute__((vector_size(4 * LANES)));
typedef uint32_t Bits __attribute__((vector_size(4 * LANES)));
typedef uint16_t HalfBits __attribute__((vector_size(2 * LANES)));

// A number in bfloat16: the upper half of one in float32.
struct BFloat16 {
    uint16_t bits;
};

// How many numbers there are in a lane. Products of BFloat16 take two at a time, one after another
// along the dimension that is summed, and sum them in float32.
template <typename T>
constexpr int PACK = sizeof(float) / sizeof(T);

constexpr float LOG2_E = 1.44269504f;

// Numbers from the start of a line of the cache on: vectors that lie in two lines take longer.
template <typename T>
struct Aligned {
    using value_type = T;
    static constexpr std::align_val_t LINE{64};

    Aligned() = default;
    template <typename U>
    Aligned(const Aligned<U> &) {}

    T *allocate(std::size_t count) { return (T *)::operator new(count * sizeof(T), LINE); }
    void deallocate(T *numbers, std::size_t) { ::operator delete(numbers, LINE); }
    bool operator==(const Aligned &) const { return true; }
    bool operator!=(const Aligned &) const { return false; }
};

template <typename T>
using Buffer = std::vector<T, Aligned<T>>;

inline Vec load(const float *from) {
    Vec x;
    std::memcpy(&x, from, sizeof x);
    return x;
}

inline void store(float *to, Vec x) { std::memcpy(to, &x, sizeof x); }

inline Vec load(const BFloat16 *from) {
    // GCC would convert each half of the vector by itself.
#ifdef __AVX512F__
    const Bits x = (Bits)_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)from));
#else
    const Bits x = (Bits)_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)from));
#endif
    return (Vec)(x << 16);
}

// Where numbers in float32 become BFloat16, they are rounded to the nearest, by an instruction or to
// their upper half, after this. What is no number stays as it is, as it might become zero.
inline Bits rounded(Vec x) { return x == x ? (Bits)x + 0x8000 : (Bits)x; }

inline void store(BFloat16 *to, Vec x) {
#ifdef __AVX512BF16__
    const auto halves = _mm512_cvtneps_pbh((__m512)x);
#else
    const HalfBits halves = __builtin_convertvector(rounded(x) >> 16, HalfBits);
#endif
    std::memcpy(to, &halves, sizeof halves);
}

// Up to a vector of numbers, with zeros behind them.
template <typename T>
inline Vec load(const T *from, int64_t count) {
    if (count >= LANES) return load(from);
    T numbers[LANES] = {};
    if (count > 0) std::memcpy(numbers, from, count * sizeof(T));
    return load(numbers);
}

template <typename T>
inline void store(T *to, Vec x, int64_t count) {
    if (count >= LANES) return store(to, x);
    T numbers[LANES];
    store(numbers, x);
    if (count > 0) std::memcpy(to, numbers, count * sizeof(T));
}

// Call f(first, how many there are from it on) for each vector of so many numbers.
template <typename F>
inline void for_each_vector(int threads, int64_t size, F f) {
    constexpr int64_t CHUNK = 8192;  // that a thread takes at a time
#pragma omp parallel for num_threads(threads)
    for (int64_t first = 0; first < size; first += CHUNK)
        for (int64_t i = first; i < std::min(first + CHUNK, size); i += LANES) f(i, size - i);
}

// Give end(column, sum) for each vector of columns of so many rows.
template <typename End>
inline void add_rows(const float *from, int64_t rows, int64_t columns, End end) {
    for (int64_t column = 0; column < columns; column += LANES) {
        Vec sum{};
        for (int64_t row = 0; row < rows; ++row) sum += load(from + row * columns + column);
        end(column, sum);
    }
}

// Fetch memory that the processor would not guess to be next. It may lie beyond the end.
inline void prefetch(const void *from) { __builtin_prefetch(from, 0, 2); }
inline void prefetch_to_write(const void *to) { __builtin_prefetch(to, 1, 2); }

// What a lane holds of numbers that follow each other.
inline Vec pack(const Vec (&x)[1]) { return x[0]; }

inline Vec pack(const Vec (&x)[2]) {
#ifdef __AVX512BF16__
    typedef uint16_t Halves __attribute__((vector_size(sizeof(Vec))));
    Halves in_turn;
    for (int i = 0; i < 2 * LANES; ++i) in_turn[i] = i / 2 + i % 2 * LANES;
    return (Vec)__builtin_shuffle((Halves)_mm512_cvtne2ps_pbh((__m512)x[1], (__m512)x[0]), in_turn);
#else
    return (Vec)((rounded(x[0]) >> 16) | (rounded(x[1]) & 0xffff0000));
#endif
}

inline float to_float(float x) { return x; }

inline float to_float(BFloat16 x) {
    const uint32_t bits = uint32_t(x.bits) << 16;
    float y;
    std::memcpy(&y, &bits, sizeof y);
    return y;
}

inline void assign(float &to, float x) { to = x; }

inline void assign(BFloat16 &to, float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    to.bits = (x == x ? bits + 0x8000 : bits) >> 16;
}

inline Vec splat(float x) { return x - Vec{}; }  // x + 0 would not be x where x is -0

inline Vec to_float(IntVec x) { return __builtin_convertvector(x, Vec); }

inline IntVec truncate(Vec x) { return __builtin_convertvector(x, IntVec); }

// 0, 1, 2, ...
inline IntVec lane_numbers() {
    IntVec x;
    for (int lane = 0; lane < LANES; ++lane) x[lane] = lane;
    return x;
}

// Turn as many vectors as there are lanes into those of their first lanes, of their second, ...
inline void transpose(Vec (&x)[LANES]) {
#pragma GCC unroll 4
    for (int step = 1; step < LANES; step *= 2) {
        // Swap the lanes with this bit of vectors without it for those without it of vectors with it.
        IntVec low = lane_numbers(), high = low + LANES;
        for (int lane = 0; lane < LANES; ++lane)
            if (lane & step)
                low[lane] += LANES - step;
            else
                high[lane] -= LANES - step;
#pragma GCC unroll 16
        for (int i = 0; i < LANES; ++i)
            if (!(i & step)) {
                const Vec first = x[i], second = x[i + step];
                x[i] = __builtin_shuffle(first, second, low);
                x[i + step] = __builtin_shuffle(first, second, high);
            }
    }
}

// y where either is no number.
inline Vec larger(Vec x, Vec y) {
#ifdef __AVX512F__
    return (Vec)_mm512_max_ps((__m512)x, (__m512)y);
#else
    return (Vec)_mm256_max_ps((__m256)x, (__m256)y);
#endif
}

inline float sum(Vec x) {
    for (int half = LANES / 2; half > 0; half /= 2)
        x += __builtin_shuffle(x, (lane_numbers() + half) % LANES);
    return x[0];
}

// 1 / x to a relative error of 2e-7, or 6e-5 for what will be rounded to BFloat16.
template <typename T = float>
inline Vec reciprocal(Vec x) {
#ifdef __AVX512F__
    const Vec y = (Vec)_mm512_rcp14_ps((__m512)x);
    if constexpr (PACK<T> > 1) return y;
#else
    const Vec y = (Vec)_mm256_rcp_ps((__m256)x);
#endif
    return y * (2.0f - x * y);
}

// 2^x of numbers up to 127, to a relative error of 3e-7, or 8e-5 for what will be rounded to BFloat16;
// 0 from 2^-126.5 down.
template <typename T = float>
inline Vec exp2(Vec x) {
    x = larger(splat(-127.0f), x);  // stays where it is no number
    // Adding 1.5 * 2^23 rounds to a whole number and leaves it in the lowest bits. 127 more makes of it
    // the exponent as floats store it.
    constexpr float SHIFT = 12582912.0f + 127;
    const Vec shifted = x + SHIFT;
    const Vec rest = x - (shifted - SHIFT);
    // Polynomials of least relative error in [-0.5, 0.5].
    Vec power;
    if constexpr (PACK<T> == 1) {
        power = rest * 1.32764713e-3f + 9.67554096e-3f;
        power = power * rest + 5.55071309e-2f;
        power = power * rest + 2.40221202e-1f;
        power = power * rest + 6.93146944e-1f;
        power = power * rest + 1.00000012f;
    } else {
        power = rest * 5.51716685e-2f + 2.42611121e-1f;
        power = power * rest + 6.93260987e-1f;
        power = power * rest + 9.99928073e-1f;
    }
    return power * (Vec)((IntVec)shifted << 23);
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

// The sum and the products of what the lanes of y hold with what is in x.
inline Vec multiply_add(Vec sum, const float *x, Vec y) { return sum + *x * y; }

inline Vec multiply_add(Vec sum, const BFloat16 *x, Vec y) {
    uint32_t both;
    std::memcpy(&both, x, sizeof both);
#ifdef __AVX512BF16__
    return (Vec)_mm512_dpbf16_ps((__m512)sum, (__m512bh)_mm512_set1_epi32(both), (__m512bh)y);
#else
    const Bits factor = Bits{} + both;
    sum += (Vec)(factor & 0xffff0000) * (Vec)((Bits)y & 0xffff0000);
    return sum + (Vec)(factor << 16) * (Vec)((Bits)y << 16);
#endif
}

// The product of a matrix, whose rows are a multiple of GROUP, and another, of N vectors of columns.
// The left one has its rows one after another; the right one has rows of lanes, inner / PACK of
// them. end(row, n, vector) takes the result.
template <int N, typename T, typename End>
__attribute__((noinline)) void multiply_vectors(const T *left, int64_t left_stride, int64_t rows,
                                                int64_t inner, const float *right,
                                                int64_t right_stride, End end) {
    for (int64_t row = 0; row < rows; row += GROUP) {
        const T *lefts = left + row * left_stride;
        Vec sums[GROUP][N] = {};
        for (int64_t i = 0; i < inner / PACK<T>; ++i) {
            Vec rights[N];
#pragma GCC unroll 8
            for (int n = 0; n < N; ++n) rights[n] = load(right + i * right_stride + n * LANES);
#pragma GCC unroll 8
            for (int g = 0; g < GROUP; ++g)
#pragma GCC unroll 8
                for (int n = 0; n < N; ++n)
                    sums[g][n] =
                        multiply_add(sums[g][n], lefts + g * left_stride + i * PACK<T>, rights[n]);
        }
#pragma GCC unroll 8
        for (int g = 0; g < GROUP; ++g)
#pragma GCC unroll 8
            for (int n = 0; n < N; ++n) end(row + g, n, sums[g][n]);
    }
}

#ifdef __AMX_BF16__
constexpr int TILE = 16;  // rows of a tile of the processor's matrix unit, each a vector

// The tiles of the thread as long as this exists; all have the greatest size.
struct Tiles {
    // They sum pairs, of which a tile has as many as rows.
    static constexpr int UNIT = 2 * TILE;

    // Whether the kernel of the operating system lets the process use them, which must ask.
    static bool usable() {
        constexpr long REQUEST_PERMISSION = 0x1023, TILE_DATA = 18;
        static const bool granted = !syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA);
        return granted;
    }

    Tiles() {
        if (!usable()) return;
        struct {
            uint8_t palette = 1, rest[15] = {};
            uint16_t row_bytes[16] = {};
            uint8_t rows[16] = {};
        } config;
        for (int tile = 0; tile < 8; ++tile) {
            config.row_bytes[tile] = sizeof(Vec);
            config.rows[tile] = TILE;
        }
        _tile_loadconfig(&config);
    }

    ~Tiles() {
        if (usable()) _tile_release();
    }
};

template <int N, typename End>
__attribute__((noinline)) void multiply_tiles(const BFloat16 *left, int64_t left_stride,
                                              int64_t rows, int64_t inner, const float *right,
                                              int64_t right_stride, End end) {
    const int64_t left_bytes = left_stride * sizeof *left, right_bytes = right_stride * sizeof *right;
    // Of many tiles, since it takes long until a tile that was stored can be read.
    constexpr int TILES = 4;
    float products[TILES * TILE][N * LANES];
    const auto take = [&](int64_t first, int64_t count) {
        for (int64_t row = 0; row < count; ++row)
#pragma GCC unroll 3
            for (int n = 0; n < N; ++n) end(first + row, n, load(products[row] + n * LANES));
    };
    asm volatile("" ::: "memory");  // compilers do not know that tiles are loaded from memory
    for (int64_t row = 0; row < rows; row += TILE) {
        _tile_zero(0);
        if constexpr (N > 1) _tile_zero(1);
        if constexpr (N > 2) _tile_zero(2);
        for (int64_t i = 0; i < inner / 2; i += TILE) {
            const float *rights = right + i * right_stride;
            _tile_loadd(3, left + row * left_stride + 2 * i, left_bytes);
            _tile_loadd(4, rights, right_bytes);
            _tile_dpbf16ps(0, 3, 4);
            if constexpr (N > 1) _tile_loadd(5, rights + LANES, right_bytes);
            if constexpr (N > 1) _tile_dpbf16ps(1, 3, 5);
            if constexpr (N > 2) _tile_loadd(6, rights + 2 * LANES, right_bytes);
            if constexpr (N > 2) _tile_dpbf16ps(2, 3, 6);
        }
        const int64_t at = row % (TILES * TILE);
        float *to = products[at];
        _tile_stored(0, to, sizeof products[0]);
        if constexpr (N > 1) _tile_stored(1, to + LANES, sizeof products[0]);
        if constexpr (N > 2) _tile_stored(2, to + 2 * LANES, sizeof products[0]);
        if (at + TILE == TILES * TILE || row + TILE >= rows) take(row - at, at + TILE);
    }
}
#else
struct Tiles {
    static constexpr int UNIT = GROUP;
    static bool usable() { return false; }
    Tiles() {}
};
#endif

// The product by tiles, where the processor has them.
template <int N, typename T, typename End>
inline void multiply(const T *left, int64_t left_stride, int64_t rows, int64_t inner,
                     const float *right, int64_t right_stride, End end) {
#ifdef __AMX_BF16__
    if constexpr (PACK<T> == 2)
        if (Tiles::usable())
            return multiply_tiles<N>(left, left_stride, rows, inner, right, right_stride, end);
#endif
    multiply_vectors<N>(left, left_stride, rows, inner, right, right_stride, end);
}
