// Where a KV cache holds the row of a key. PAGED 0: [batch, head, capacity, size]. PAGED 1: [page, head, 64, size], with a
// table [batch, pages] of the pages of each sequence, in order. C is the element.
#pragma once
#include "common.cuh"

// Parameters of kernels that take caches, where they have them; and the table of pages, or none.
#if PAGED
#define PAGES_PARAMETER const int* pages,
#define TABLE pages, capacity / 64
#else
#define PAGES_PARAMETER
#define TABLE nullptr, 0
#endif
#if QUANTIZED
#define SCALES_PARAMETERS const float *key_scale, const float *value_scale,
#else
#define SCALES_PARAMETERS
#endif
#if SLOPES
#define SLOPES_PARAMETER const float* slopes,
#define SLOPES_OR_NONE slopes
#else
#define SLOPES_PARAMETER
#define SLOPES_OR_NONE nullptr
#endif

struct Cache {
    const int* table;    // of this sequence; PAGED alone
    u64 base, heads, capacity;

    __device__ __forceinline__ u64 row(int key) const {
        if (PAGED) return ((u64)table[key / 64] * heads + base) * 64 + key % 64;
        return base * capacity + key;
    }
};

__device__ __forceinline__ Cache cache_of(const int* table, int pages, int batch, int head, int heads, int capacity) {
    return PAGED ? Cache{table + (u64)batch * pages, (u64)head, (u64)heads, 64}
                 : Cache{nullptr, (u64)batch * heads + head, (u64)heads, (u64)capacity};
}
