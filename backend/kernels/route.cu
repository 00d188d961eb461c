// The PICKS likeliest of EXPERTS experts of each token, and their shares: one warp a token, one lane every 32nd expert.
#include "common.cuh"

constexpr int EACH = (EXPERTS + 31) / 32;

extern "C" __global__ void __launch_bounds__(WARPS * 32) route(const T* logits, int* chosen, T* shares, int tokens) {
    let_next_start();
    wait_for_previous();
    const int token = blockIdx.x * WARPS + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (token >= tokens) return;
    float x[EACH], most = -INFINITY, total = 0, kept = 0, mine = 0;
#pragma unroll
    for (int i = 0; i < EACH; ++i) {
        x[i] = lane + 32 * i < EXPERTS ? wide(logits[(u64)token * EXPERTS + lane + 32 * i]) : -INFINITY;
        most = fmaxf(most, x[i]);
    }
    most = warp_max(most);
#pragma unroll
    for (int i = 0; i < EACH; ++i) total += expf(x[i] - most);
    total = warp_sum(total);
    u32 taken = 0;   // of this lane's experts
    for (int k = 0; k < PICKS; ++k) {
        float best = -INFINITY;
        int at = EXPERTS;
#pragma unroll
        for (int i = 0; i < EACH; ++i) {   // of equal ones the first; one that is not a number last
            const bool left = !(taken >> i & 1) && lane + 32 * i < EXPERTS;
            if (left && (at == EXPERTS || x[i] > best)) best = x[i], at = lane + 32 * i;
        }
#pragma unroll
        for (int step = 16; step; step /= 2) {
            const float other = __shfl_xor_sync(~0u, best, step);
            const int there = __shfl_xor_sync(~0u, at, step);
            const bool better = there < EXPERTS && (at == EXPERTS || other > best || (other == best && there < at));
            if (better) best = other, at = there;
        }
        if (at % 32 == lane) taken |= 1u << at / 32;
        if (lane == k) mine = expf(best - most);
        kept += expf(best - most);
        if (lane == 0) chosen[(u64)token * PICKS + k] = at;
    }
    if (lane < PICKS) shares[(u64)token * PICKS + lane] = narrow<T>(mine / (NORMALISED ? kept : total));
}
