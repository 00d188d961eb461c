// Caches of 8 bits: C is the stored element, T what is computed in, where both are exact. QUANTIZED: 0 none, 1 integers, 2 f8e4m3.
#pragma once
#include "mma.cuh"

#if QUANTIZED
typedef u8 C;
#else
typedef T C;
#endif

#if QUANTIZED
// Element i of a word of four; its scale comes later.
__device__ __forceinline__ float element(u32 four, int i) {
#if QUANTIZED == 1   // 2^23 + (x + 128), less 2^23 + 128
    return __uint_as_float(__byte_perm(four ^ 0x80808080u, 0x4b000000u, 0x7540 + i)) - 8388736.0f;
#else                // exponent and mantissa, 7 bits, into those of f32, then 2^120
    const u32 x = four >> (8 * i);
    return __uint_as_float((x & 0x80u) << 24 | (x & 0x7fu) << 20) * 1.329227995784916e36f;
#endif
}
#endif

// An element as a number; its scale comes later.
__device__ __forceinline__ float read(const C* p) {
#if QUANTIZED
    return element(*p, 0);
#else
    return wide(*p);
#endif
}

// An element as it is stored, nearest to x.
__device__ __forceinline__ C stored(float x) {
#if QUANTIZED == 1
    return (C)(signed char)fminf(fmaxf(rintf(x), -127.0f), 127.0f);
#elif QUANTIZED == 2
    const float a = fminf(fabsf(x), 448.0f);
    const u32 sign = x < 0 ? 0x80u : 0u;
    if (a < 0.015625f) return sign | (u32)rintf(a * 512.0f);   // below 2^-6: steps of 2^-9; 8 of them make 2^-6
    u32 bits = __float_as_uint(a);
    bits += 0x7ffffu + (bits >> 20 & 1);   // to nearest, ties to even
    return sign | ((bits >> 20) - (120u << 3));
#else
    return narrow<T>(x);
#endif
}
