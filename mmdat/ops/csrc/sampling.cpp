// Bilinear sampling of a channels-last map at the locations of each group of its channels.
//
// Forward, a thread takes some of the points. Backward, it takes a block of channels, to which it adds
// the gradients of all points, since points share positions of the map.

#include <algorithm>
#include <cmath>

#include "maps.h"
#include "vectors.h"

namespace {

constexpr int64_t POINTS = 64;  // that a thread takes at a time
constexpr int64_t BLOCK = 16;   // channels

// The fields are in the order in which Python gives them.
struct Sizes {
    int64_t batch, channels, height, width, groups, points;

    int64_t group_channels() const { return channels / groups; }
    int64_t positions() const { return height * width; }
};

// The four positions around a location (y, x) whose weights are not zero, and the slopes of the weights.
struct Corners {
    int64_t position[4];
    float weight[4], slope_y[4], slope_x[4];
    int count = 0;
    float start;  // zero, but no number where the location is none

    Corners(const Sizes &sizes, const float *location) {
        const float scale_y = (sizes.height - 1) * 0.5f, scale_x = (sizes.width - 1) * 0.5f;
        const float y = (location[0] + 1) * scale_y, x = (location[1] + 1) * scale_x;
        const float top = std::floor(y), left = std::floor(x);
        const float down = y - top, right = x - left;
        start = (down - down) + (right - right);
        for (int i = 0; i < 4; ++i) {
            const bool is_lower = i / 2, is_right = i % 2;
            const float row = top + is_lower, column = left + is_right;
            if (!(row >= 0 && row < sizes.height && column >= 0 && column < sizes.width)) continue;
            const float of_row = is_lower ? down : 1 - down, of_column = is_right ? right : 1 - right;
            position[count] = int64_t(row) * sizes.width + int64_t(column);
            weight[count] = of_row * of_column;
            slope_y[count] = (is_lower ? scale_y : -scale_y) * of_column;
            slope_x[count] = (is_right ? scale_x : -scale_x) * of_row;
            ++count;
        }
    }
};

// Locations are of [sample][group][point][y, x].
template <typename T>
void forward(int threads, const Sizes &sizes, const T *map, const float *locations, T *out) {
    const int64_t chunks = round_up(sizes.points, POINTS) / POINTS, channels = sizes.group_channels();
#pragma omp parallel for num_threads(threads)
    for (int64_t task = 0; task < sizes.batch * sizes.groups * chunks; ++task) {
        const int64_t group = task / chunks, sample = group / sizes.groups;
        const int64_t channel = group % sizes.groups * channels;
        const int64_t first = task % chunks * POINTS;
        const T *from = map + sample * sizes.positions() * sizes.channels + channel;
        for (int64_t point = first; point < std::min(first + POINTS, sizes.points); ++point) {
            const Corners corners(sizes, locations + (group * sizes.points + point) * 2);
            T *to = out + (sample * sizes.points + point) * sizes.channels + channel;
            for (int64_t c = 0; c < channels; c += LANES) {
                Vec sum = splat(corners.start);
                for (int i = 0; i < corners.count; ++i)
                    sum += corners.weight[i] * load(from + corners.position[i] * sizes.channels + c);
                store(to + c, sum);
            }
        }
    }
}

template <typename T>
void backward(int threads, const Sizes &sizes, const T *map, const float *locations, const T *grad_out,
              T *grad, float *grad_locations) {
    const int64_t blocks = sizes.channels / BLOCK, blocks_of_group = sizes.group_channels() / BLOCK;
    const int64_t of_block = sizes.points * 2;
    Buffer<float> slopes(sizes.batch * blocks * of_block);  // [sample][block][point][y, x]
#pragma omp parallel for num_threads(threads)
    for (int64_t task = 0; task < sizes.batch * blocks; ++task) {
        const int64_t sample = task / blocks, channel = task % blocks * BLOCK;
        const int64_t group = task / blocks_of_group;
        const int64_t offset = sample * sizes.positions() * sizes.channels + channel;
        Buffer<float> sums(sizes.positions() * BLOCK);
        for (int64_t point = 0; point < sizes.points; ++point) {
            const Corners corners(sizes, locations + group * of_block + point * 2);
            const T *grads = grad_out + (sample * sizes.points + point) * sizes.channels + channel;
            Vec to_y = splat(corners.start), to_x = to_y;
            for (int64_t c = 0; c < BLOCK; c += LANES)
                for (int i = 0; i < corners.count; ++i) {
                    const Vec value = load(map + offset + corners.position[i] * sizes.channels + c);
                    float *sum = sums.data() + corners.position[i] * BLOCK + c;
                    store(sum, load(sum) + corners.weight[i] * load(grads + c));
                    to_y += corners.slope_y[i] * value * load(grads + c);
                    to_x += corners.slope_x[i] * value * load(grads + c);
                }
            float *to = slopes.data() + task * of_block + point * 2;
            to[0] = sum(to_y);
            to[1] = sum(to_x);
        }
        for (int64_t position = 0; position < sizes.positions(); ++position)
            for (int64_t c = 0; c < BLOCK; c += LANES)
                store(grad + offset + position * sizes.channels + c,
                      load(sums.data() + position * BLOCK + c));
    }
    for (int64_t group = 0; group < sizes.batch * sizes.groups; ++group)
        for (int64_t i = 0; i < of_block; ++i) {
            float sum = 0;
            for (int64_t block = 0; block < blocks_of_group; ++block)
                sum += slopes[(group * blocks_of_group + block) * of_block + i];
            grad_locations[group * of_block + i] = sum;
        }
}

}  // namespace

#define KERNELS(NAME, T)                                                                           \
    extern "C" void mmdat_sampling_forward_##NAME(int threads, const Sizes *sizes, const T *map,   \
                                                  const float *locations, T *out) {                \
        forward<T>(threads, *sizes, map, locations, out);                                          \
    }                                                                                              \
    extern "C" void mmdat_sampling_backward_##NAME(int threads, const Sizes *sizes, const T *map,  \
                                                   const float *locations, const T *grad_out,      \
                                                   T *grad, float *grad_locations) {               \
        backward<T>(threads, *sizes, map, locations, grad_out, grad, grad_locations);              \
    }

KERNELS(float32, float)
KERNELS(bfloat16, BFloat16)
