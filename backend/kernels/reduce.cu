// What one axis of x comes to, one warp a row: x is [outer, WIDTH, inner], the row an index of outer and one of inner.
// REDUCTION: 0 sum, 1 mean, 2 greatest, 3 softmax, which gives every element of the row.
#include "any.cuh"

template <class A, class F> __device__ __forceinline__ A over_warp(A x, F join) {
#pragma unroll
    for (int step = 16; step; step /= 2) x = join(x, __shfl_xor_sync(~0u, x, step));
    return x;
}

extern "C" __global__ void __launch_bounds__(WARPS * 32) reduce_rows(const T* x, T* y, long long rows, int width, int inner) {
    let_next_start();
    wait_for_previous();
    const u64 row = (u64)blockIdx.x * WARPS + threadIdx.x / 32;
    const int lane = threadIdx.x % 32;
    if (row >= (u64)rows) return;
    const u64 first = row / inner * width * inner + row % inner;
    typedef decltype(wide(*x)) A;
    const auto most_of = [](A a, A b) { return greater(a, b); };
    const auto sum_of = [](A a, A b) { return a + b; };
    if (REDUCTION >= 2) {
        A most = wide(x[first]);
        for (int i = lane; i < width; i += 32) most = greater(most, wide(x[first + (u64)i * inner]));
        most = over_warp(most, most_of);
        if (REDUCTION == 2) {
            if (lane == 0) put(y + row, most);
            return;
        }
        float total = 0;
        for (int i = lane; i < width; i += 32) total += expf((float)wide(x[first + (u64)i * inner]) - (float)most);
        total = over_warp(total, [](float a, float b) { return a + b; });
        for (int i = lane; i < width; i += 32) {
            const u64 at = first + (u64)i * inner;
            put(y + at, expf((float)wide(x[at]) - (float)most) / total);
        }
        return;
    }
    A sum = 0;
    for (int i = lane; i < width; i += 32) sum += wide(x[first + (u64)i * inner]);
    sum = over_warp(sum, sum_of);
    if (lane == 0) put(y + row, REDUCTION == 1 ? sum / width : sum);
}
