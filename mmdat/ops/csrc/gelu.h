// GELU and its slope (arXiv 1606.08415), of a vector.
#pragma once

#include "vectors.h"

// The standard normal distribution at x: the density, and the integral up to x. Its relative error is
// 1e-6, or 2e-4 for what will be rounded to BFloat16, and up to 1e-5 more below -3, where x * x is
// rounded.
template <typename T>
struct Normal {
    Vec density, integral;

    explicit Normal(Vec x) {
        Vec size = (Vec)((Bits)x & 0x7fffffff);
        size = size < 16 ? size : splat(16);  // where the tail is zero
        density = 0.398942280f * exp2<T>(x * x * (-0.5f * LOG2_E));
        // Polynomials of least relative error of the ratio of the tail to the density.
        Vec t, ratio;
        if constexpr (PACK<T> == 1) {
            t = reciprocal(size * 0.3f + 1.0f);
            ratio = t * 8.94234538e-2f - 3.94050747e-1f;
            ratio = ratio * t + 5.17253339e-1f;
            ratio = ratio * t - 1.34566441e-1f;
            ratio = ratio * t + 3.22256923e-1f;
            ratio = ratio * t + 2.50445873e-1f;
            ratio = ratio * t + 3.02685082e-1f;
            ratio = ratio * t + 2.99866205e-1f;
        } else {
            t = reciprocal(size * 0.383333333f + 1.0f);
            ratio = 4.52685711e-01f - t * 2.23044496e-01f;
            ratio = ratio * t + 2.45209683e-01f;
            ratio = ratio * t + 3.95740857e-01f;
            ratio = ratio * t + 3.82669342e-01f;
        }
        const Vec tail = density * ratio * t;
        integral = x > 0 ? 1 - tail : tail;
    }
};

template <typename T>
inline Vec gelu(Vec x) {
    return x * Normal<T>(x).integral;
}

template <typename T>
inline Vec gelu_slope(Vec x) {
    const Normal<T> normal(x);
    return normal.integral + x * normal.density;
}
