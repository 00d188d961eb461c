// Elements of any type as numbers: floats of 16 bits as f32, bools as 0 and 1.
#pragma once
#include "activation.cuh"
#include "common.cuh"

typedef signed char i8;
typedef int i32;
typedef long long i64;

__device__ __forceinline__ i32 wide(i32 x) { return x; }
__device__ __forceinline__ i64 wide(i64 x) { return x; }
__device__ __forceinline__ i32 wide(i8 x) { return x; }
__device__ __forceinline__ i32 wide(u8 x) { return x; }

// f8e4m3 but NaN: exponent and mantissa, 7 bits, into those of f32, then 2^120.
__device__ __forceinline__ float from_float8(u8 x) {
    return __uint_as_float((x & 0x80u) << 24 | (x & 0x7fu) << 20) * 1.329227995784916e36f;
}

template <class X> __device__ __forceinline__ void put(f32* y, X x) { *y = (float)x; }
template <class X> __device__ __forceinline__ void put(f16* y, X x) { *y = narrow<f16>((float)x); }
template <class X> __device__ __forceinline__ void put(bf16* y, X x) { *y = narrow<bf16>((float)x); }
template <class X> __device__ __forceinline__ void put(i32* y, X x) { *y = (i32)x; }
template <class X> __device__ __forceinline__ void put(i64* y, X x) { *y = (i64)x; }
template <class X> __device__ __forceinline__ void put(i8* y, X x) { *y = (i8)x; }
template <class X> __device__ __forceinline__ void put(u8* y, X x) { *y = (u8)x; }

// NaN of either is the result, as in NumPy.
__device__ __forceinline__ float greater(float a, float b) { return a > b || a != a ? a : b; }
__device__ __forceinline__ float lesser(float a, float b) { return a < b || a != a ? a : b; }
__device__ __forceinline__ i64 greater(i64 a, i64 b) { return a > b ? a : b; }
__device__ __forceinline__ i64 lesser(i64 a, i64 b) { return a < b ? a : b; }
__device__ __forceinline__ i32 greater(i32 a, i32 b) { return a > b ? a : b; }
__device__ __forceinline__ i32 lesser(i32 a, i32 b) { return a < b ? a : b; }
