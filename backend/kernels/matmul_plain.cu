// y = a @ b over the last two axes, [m, K] by [K, n]; A_AT and B_AT say where the matrices of batch c0, c1, ... begin.
// One block a tile of SIDE x SIDE elements, on the plain units.
#include "common.cuh"

extern "C" __global__ void __launch_bounds__(SIDE * SIDE) plain_matmul(
    const T* a, const T* b, T* y, int rows, int inner, int columns SIZES) {
    let_next_start();
    wait_for_previous();
    __shared__ float of_a[SIDE][SIDE + 1], of_b[SIDE][SIDE + 1];
    const int across = (columns + SIDE - 1) / SIDE, x = threadIdx.x % SIDE, z = threadIdx.x / SIDE;
    const int row = blockIdx.x / across * SIDE + z, column = blockIdx.x % across * SIDE + x;
    COORDINATES
    a += (u64)(A_AT) * rows * inner;
    b += (u64)(B_AT) * inner * columns;
    float sum = 0;
    for (int first = 0; first < inner; first += SIDE) {
        of_a[z][x] = row < rows && first + x < inner ? wide(a[(u64)row * inner + first + x]) : 0.0f;
        of_b[z][x] = column < columns && first + z < inner ? wide(b[(u64)(first + z) * columns + column]) : 0.0f;
        __syncthreads();
#pragma unroll
        for (int k = 0; k < SIDE; ++k) sum += of_a[z][k] * of_b[k][x];
        __syncthreads();
    }
    if (row < rows && column < columns) y[((u64)blockIdx.y * rows + row) * columns + column] = narrow<T>(sum);
}
