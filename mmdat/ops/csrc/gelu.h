// GELU and its slope (arXiv 1606.08415), of a vector.
#pragma once

#include "vectors.h"

// The standard normal distribution at x: the density, and the integrals up to -|x| and up to x. Their
// relative error is 1e-6, or 3e-4 for what will be rounded to BFloat16, and up to 1e-5 more where |x| > 3,
// as x * x is rounded.
template <typename T>
struct Normal {
    Vec below;  // -|x|, but no less than -16, where the tail is zero
    Vec density, tail, integral;

    explicit Normal(Vec x) : below(larger((Vec)((Bits)x | 0x80000000), splat(-16))) {
        const Vec power = exp2<T>(x * x * (-0.5f * LOG2_E));
        density = 0.398942280f * power;
        // Polynomials of least relative error of the ratio of the tail to the power.
        Vec t, ratio;
        if constexpr (PACK<T> == 1) {
            t = reciprocal(1.0f - below * 0.3f);
            ratio = t * 3.56747966e-02f - 1.57203504e-01f;
            ratio = ratio * t + 2.06354227e-01f;
            ratio = ratio * t - 5.36842428e-02f;
            ratio = ratio * t + 1.28561912e-01f;
            ratio = ratio * t + 9.99134477e-02f;
            ratio = ratio * t + 1.20753877e-01f;
            ratio = ratio * t + 1.19629308e-01f;
        } else {
            t = reciprocal<T>(1.0f - below * 0.383333333f);
            ratio = 1.80595470e-01f - t * 8.89818799e-02f;
            ratio = ratio * t + 9.78245101e-02f;
            ratio = ratio * t + 1.57877760e-01f;
            ratio = ratio * t + 1.52662980e-01f;
        }
        tail = power * ratio * t;
        integral = x > 0 ? 1 - tail : tail;
    }
};

// Zero at minus infinity.
template <typename T>
inline Vec gelu(Vec x) {
    const Normal<T> normal(x);
    return larger(Vec{}, x) + normal.below * normal.tail;
}

template <typename T>
inline Vec gelu_slope(Vec x) {
    const Normal<T> normal(x);
    return normal.integral + x * normal.density;
}
