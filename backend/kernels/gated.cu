// activation(gate) * up. WIDTH 0: of two operands; else of the halves, each of WIDTH elements, of the rows of one.
#include "activation.cuh"
#include "common.cuh"

extern "C" __global__ void __launch_bounds__(THREADS) gate(const T* gate, const T* up, T* y, int count) {
    let_next_start();
    wait_for_previous();
    const int at = (blockIdx.x * THREADS + threadIdx.x) * VECTOR;
    if (at >= count) return;
#if WIDTH
    gate += (u64)(at / WIDTH) * WIDTH;
    up += (u64)(at / WIDTH + 1) * WIDTH;
#endif
    const Pack<T, VECTOR> a = load<T, VECTOR>(gate + at), b = load<T, VECTOR>(up + at);
    Pack<T, VECTOR> out;
#pragma unroll
    for (int i = 0; i < VECTOR; ++i) out.set(i, activated<ACTIVATION>(a[i]) * b[i]);
    store<T, VECTOR>(y + at, out);
}
