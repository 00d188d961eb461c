// Activations of gated blocks. ACTIVATION: 0 none, 1 silu, 2 gelu by erf, 3 gelu by tanh, 4 relu.
#pragma once

template <int KIND> __device__ __forceinline__ float activated(float x) {
    if (KIND == 1) return x / (1.0f + __expf(-x));
    if (KIND == 2) return 0.5f * x * (1.0f + erff(x * 0.70710678f));
    if (KIND == 3) return 0.5f * x * (1.0f + tanhf(0.79788456f * (x + 0.044715f * x * x * x)));
    if (KIND == 4) return fmaxf(x, 0.0f);
    return x;
}
