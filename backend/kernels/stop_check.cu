// Whether each sequence has come to its end, and how long it is now: one thread a sequence.
#include "common.cuh"

extern "C" __global__ void __launch_bounds__(THREADS) stop_check(
    const int* tokens, const int* lengths, const int* limits, const int* stops, const int* done, int* ended, int* longer,
    int batch, int count) {
    let_next_start();
    wait_for_previous();
    const int i = blockIdx.x * THREADS + threadIdx.x;
    if (i >= batch) return;
    const int was = done[i], length = lengths[i] + (was ? 0 : 1);
    int is = was || length >= limits[i];
    for (int s = 0; s < count; ++s) is |= tokens[i] == stops[s];
    ended[i] = is;
    longer[i] = length;
}
