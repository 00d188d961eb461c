// Barriers in shared memory, 8 bytes each: threads that arrive need not wait, and copies arrive when they are done.
#pragma once
#include "common.cuh"

// By one thread, before a __syncthreads: its phases end when so many have arrived.
__device__ __forceinline__ void make_barrier(u32 at, int arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(at), "r"(arrivals) : "memory");
}
__device__ __forceinline__ void arrive(u32 at) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(at) : "memory");
}
// This thread arrives when the copies that it has begun (`copy_async`) are done.
__device__ __forceinline__ void arrive_with_copies(u32 at) {
    asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(at) : "memory");
}
__device__ __forceinline__ bool has_ended(u32 at, u32 parity) {
    u32 yes;
    asm volatile("{ .reg .pred p; mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2; selp.u32 %0, 1, 0, p; }"
                 : "=r"(yes)
                 : "r"(at), "r"(parity)
                 : "memory");
    return yes;
}
// Until the last phase with this parity has ended; that before the first counts as one with parity 1.
__device__ __forceinline__ void wait_for_phase(u32 at, u32 parity) {
    while (!has_ended(at, parity)) {}
}

// Which of N places of shared memory comes next, and the parity of the phase of its barriers.
template <int N> struct Ring {
    int slot = 0;
    u32 parity = 0;

    __device__ __forceinline__ void next() {
        if (++slot == N) slot = 0, parity ^= 1;
    }
};

// Wait for so many threads at a barrier by its number, 1 to 15.
__device__ __forceinline__ void wait_together(int number, int threads) {
    asm volatile("bar.sync %0, %1;" ::"r"(number), "r"(threads) : "memory");
}
