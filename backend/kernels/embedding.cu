// The rows of a table for some token ids: one block a token. T is the element, ID the type of ids.
#include "common.cuh"

extern "C" __global__ void __launch_bounds__(THREADS) copy_rows(const T* table, const ID* ids, T* y) {
    let_next_start();
    wait_for_previous();
    const T* row = table + (u64)ids[blockIdx.x] * HIDDEN;
    T* out = y + (u64)blockIdx.x * HIDDEN;
    for (int i = threadIdx.x * VECTOR; i < HIDDEN; i += THREADS * VECTOR) {
        store<T, VECTOR>(out + i, load<T, VECTOR>(row + i));
    }
}
