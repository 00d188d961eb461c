// Eight and four elements of a cache as they are stored, and as T, for tensor cores.
#pragma once
#include "quantized.cuh"

#if QUANTIZED
__device__ __forceinline__ u32 two_of(u32 four, int i) { return pair<T>(element(four, i), element(four, i + 1)); }

typedef uint2 Eight;
typedef u32 Four;
__device__ __forceinline__ uint4 as_t(Eight x) {
    return make_uint4(two_of(x.x, 0), two_of(x.x, 2), two_of(x.y, 0), two_of(x.y, 2));
}
__device__ __forceinline__ uint2 as_t(Four x) { return make_uint2(two_of(x, 0), two_of(x, 2)); }
#else
typedef uint4 Eight;
typedef uint2 Four;
__device__ __forceinline__ uint4 as_t(Eight x) { return x; }
__device__ __forceinline__ uint2 as_t(Four x) { return x; }
#endif
__device__ __forceinline__ Eight eight(const C* p) { return load_now(reinterpret_cast<const Eight*>(p)); }
__device__ __forceinline__ Four four(const C* p) { return load_now(reinterpret_cast<const Four*>(p)); }
