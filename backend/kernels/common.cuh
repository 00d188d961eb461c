// What every kernel shares: element types as they are stored, 16-byte accesses, reductions, and the order of launches.
#pragma once

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

struct f16 {
    u16 bits;
};
struct bf16 {
    u16 bits;
};
typedef float f32;

#define INFINITY __int_as_float(0x7f800000)

__device__ __forceinline__ float wide(f32 x) { return x; }
__device__ __forceinline__ float wide(bf16 x) { return __uint_as_float((u32)x.bits << 16); }
__device__ __forceinline__ float wide(f16 x) {
    float y;
    asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x.bits));
    return y;
}

template <class T> __device__ __forceinline__ T narrow(float x);
template <> __device__ __forceinline__ f32 narrow<f32>(float x) { return x; }
template <> __device__ __forceinline__ bf16 narrow<bf16>(float x) {
    bf16 y;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
    return y;
}
template <> __device__ __forceinline__ f16 narrow<f16>(float x) {
    f16 y;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
    return y;
}

template <class T> __device__ __forceinline__ float rounded(float x) { return wide(narrow<T>(x)); }

// N elements that one instruction loads or stores: 16 bytes at most.
template <class T, int N> struct alignas(sizeof(T) * N) Pack {
    T at[N];
    __device__ __forceinline__ float operator[](int i) const { return wide(at[i]); }
    __device__ __forceinline__ void set(int i, float x) { at[i] = narrow<T>(x); }
};

template <class T, int N> __device__ __forceinline__ Pack<T, N> load(const T* p) {
    return *reinterpret_cast<const Pack<T, N>*>(p);
}
template <class T, int N> __device__ __forceinline__ void store(T* p, const Pack<T, N>& x) {
    *reinterpret_cast<Pack<T, N>*>(p) = x;
}

// 16, 8 or 4 bytes, loaded where the program says so: the compiler would rather wait and keep fewer loads under way.
__device__ __forceinline__ uint4 load_now(const uint4* p) {
    uint4 x;
    asm volatile("ld.global.v4.u32 {%0, %1, %2, %3}, [%4];" : "=r"(x.x), "=r"(x.y), "=r"(x.z), "=r"(x.w) : "l"(p));
    return x;
}
__device__ __forceinline__ uint2 load_now(const uint2* p) {
    uint2 x;
    asm volatile("ld.global.v2.u32 {%0, %1}, [%2];" : "=r"(x.x), "=r"(x.y) : "l"(p));
    return x;
}
__device__ __forceinline__ u32 load_now(const u32* p) {
    u32 x;
    asm volatile("ld.global.u32 %0, [%1];" : "=r"(x) : "l"(p));
    return x;
}

// 16 bytes of weights: read once, by nobody else, and never written, so past L1.
__device__ __forceinline__ uint4 stream(const void* p) {
    uint4 x;
    asm volatile("ld.global.nc.L1::no_allocate.L2::256B.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(x.x), "=r"(x.y), "=r"(x.z), "=r"(x.w)
                 : "l"(p));
    return x;
}

// Have the 32 bytes about an address in the L2 cache soon.
__device__ __forceinline__ void bring(const void* p) { asm volatile("prefetch.global.L2 [%0];" ::"l"(p)); }

// Until the launches before this one are done and their writes are seen. Every thread block must wait before it ends.
// What nothing writes (weights) may be read before.
__device__ __forceinline__ void wait_for_previous() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
// The next launch may start its blocks where there is room; it waits for this one by itself.
__device__ __forceinline__ void let_next_start() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;");
#endif
}

__device__ __forceinline__ float warp_sum(float x) {
#pragma unroll
    for (int step = 16; step; step /= 2) x += __shfl_xor_sync(~0u, x, step);
    return x;
}
// Over the half of a warp that a thread is in; the other half may be elsewhere.
__device__ __forceinline__ float half_warp_sum(float x) {
    const u32 half = threadIdx.x & 16 ? 0xffff0000u : 0xffffu;
#pragma unroll
    for (int step = 8; step; step /= 2) x += __shfl_xor_sync(half, x, step);
    return x;
}
__device__ __forceinline__ float warp_max(float x) {
#pragma unroll
    for (int step = 16; step; step /= 2) x = fmaxf(x, __shfl_xor_sync(~0u, x, step));
    return x;
}

__device__ __forceinline__ float power_of_2(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// Over the four lanes that hold a row of the tensor cores' result.
__device__ __forceinline__ float quad_max(float x) {
    x = fmaxf(x, __shfl_xor_sync(~0u, x, 1));
    return fmaxf(x, __shfl_xor_sync(~0u, x, 2));
}
__device__ __forceinline__ float quad_sum(float x) {
    x += __shfl_xor_sync(~0u, x, 1);
    return x + __shfl_xor_sync(~0u, x, 2);
}

// A softmax that meets its scores one by one: what has been summed so far counts `less`, the new one `share`.
struct RunningSoftmax {
    float most = -INFINITY, total = 0, less, share;

    __device__ __forceinline__ void meet(float score) {
        const float now = fmaxf(most, score);
        less = expf(most - now), share = expf(score - now);
        most = now;
        total = total * less + share;
    }
};

// The sum over a block of N threads, in every thread, always in the same order.
template <int N> __device__ __forceinline__ float block_sum(float x) {
    if (N == 32) return warp_sum(x);
    __shared__ float part[N / 32];
    x = warp_sum(x);
    __syncthreads();
    if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = x;
    __syncthreads();
    float total = 0;
#pragma unroll
    for (int i = 0; i < N / 32; ++i) total += part[i];
    return total;
}
