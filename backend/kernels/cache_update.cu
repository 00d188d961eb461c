// Rows of S new tokens [batch, heads, S, SIZE] into a cache [batch, heads, capacity, SIZE], each sequence from its own
// position on. One warp a row.
#include "common.cuh"

extern "C" __global__ void __launch_bounds__(WARPS * 32) update_cache(
    T* cache, const T* rows_of, const int* start, long long rows, int tokens, int capacity) {
    let_next_start();
    wait_for_previous();
    const u64 row = (u64)blockIdx.x * WARPS + threadIdx.x / 32;
    if (row >= (u64)rows) return;
    const u64 slice = row / tokens;
    const int position = start[slice / HEADS] + (int)(row % tokens);
    if (position >= capacity) return;
    for (int d = threadIdx.x % 32; d < SIZE; d += 32) cache[(slice * capacity + position) * SIZE + d] = rows_of[row * SIZE + d];
}
