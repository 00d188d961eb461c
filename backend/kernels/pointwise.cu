// Each element of y by itself: what it is made of stands in VALUE, which the launch rule writes for one op.
// Y is the element of y, OPERANDS and SIZES declare what VALUE reads, COORDINATES where element i stands.
#include "any.cuh"

extern "C" __global__ void __launch_bounds__(THREADS) pointwise(OPERANDS Y* y SIZES, long long count) {
    let_next_start();
    wait_for_previous();
    const u64 i = (u64)blockIdx.x * THREADS + threadIdx.x;
    if (i >= (u64)count) return;
    COORDINATES
    put(y + i, VALUE);
}
