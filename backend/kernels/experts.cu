// The products of the experts that are chosen, for few tokens, on tensor cores, as linear.cu multiplies: a block makes 16
// rows of the weight, its WARPS warps share the sum over K, and add their parts in shared memory in the same order.
//
// OUTER 0: a block is one expert's, whose tokens are the columns, 8 at a time: y[pair] = silu(fc @ x) * (gate @ x), a pair
// being token * PICKS + place. OUTER 1: a block goes over all experts, tokens are the columns, and each expert's product
// counts by its share. Experts that nobody chose are not read. T: elements. WIDTH: rows of a weight. INNER: K.
#include "mma.cuh"

constexpr int CHUNKS = INNER / 32, TILES = OUTER ? 1 : 2, MOST = 128;   // MOST: pairs of a pass that are listed

struct Sums {
    float of[TILES][4];
};

// The product of 16 rows of each of TILES weights and of 8 rows of x, of which this lane reads one, over a warp's part of K.
__device__ __forceinline__ void multiply(Sums& sums, const T* const (&rows)[TILES][2], const T* x, int warp, int t) {
#pragma unroll 2
    for (int chunk = warp; chunk < CHUNKS; chunk += WARPS) {
        uint4 a[TILES][2];
#pragma unroll
        for (int m = 0; m < TILES; ++m) {
#pragma unroll
            for (int h = 0; h < 2; ++h) a[m][h] = stream(rows[m][h] + chunk * 32 + t * 8);
        }
        const uint4 b = x ? load_now(reinterpret_cast<const uint4*>(x + chunk * 32 + t * 8)) : make_uint4(0, 0, 0, 0);
#pragma unroll
        for (int m = 0; m < TILES; ++m) {
            mma<T>(sums.of[m], a[m][0].x, a[m][1].x, a[m][0].y, a[m][1].y, b.x, b.y);
            mma<T>(sums.of[m], a[m][0].z, a[m][1].z, a[m][0].w, a[m][1].w, b.z, b.w);
        }
    }
}

extern "C" __global__ void __launch_bounds__(WARPS * 32) experts(
    const T* x, const int* chosen,
#if OUTER
    const T* shares, const T* proj, T* y,
#else
    const T* fc, const T* gate, T* y,
#endif
    int tokens) {
    let_next_start();
    wait_for_previous();
    __shared__ float part[WARPS][TILES][4][32];
    __shared__ int listed[MOST], count;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4, first = blockIdx.x * 16;
    const int row[2] = {min(first + g, WIDTH - 1), min(first + g + 8, WIDTH - 1)};   // past the end: the last once more
    const auto total = [&](int m, int r, int c) {
        float s = 0;
#pragma unroll
        for (int w = 0; w < WARPS; ++w) s += part[w][m][r / 8 * 2 + c % 2][r % 8 * 4 + c / 2];
        return s;
    };
    const auto keep = [&](const Sums& sums) {
        __syncthreads();
#pragma unroll
        for (int m = 0; m < TILES; ++m) {
#pragma unroll
            for (int i = 0; i < 4; ++i) part[warp][m][i][lane] = sums.of[m][i];
        }
        __syncthreads();
    };
    const int r = threadIdx.x % 16, c = threadIdx.x / 16;   // what the first 128 threads write
#if OUTER
    const int token = blockIdx.y * 8 + g;
    Sums all = {};
    for (int e = 0; e < EXPERTS; ++e) {
        int place = -1;
        for (int k = 0; k < PICKS; ++k) place = token < tokens && chosen[token * PICKS + k] == e ? k : place;
        if (!__any_sync(~0u, place >= 0)) continue;   // in all warps alike
        const T* weight = proj + (u64)e * WIDTH * INNER;
        const T* const rows[TILES][2] = {{weight + (u64)row[0] * INNER, weight + (u64)row[1] * INNER}};
        Sums sums = {};
        multiply(sums, rows, place < 0 ? nullptr : x + (u64)(token * PICKS + place) * INNER, warp, t);
        const float share = place < 0 ? 0.0f : wide(shares[token * PICKS + place]);
#pragma unroll
        for (int i = 0; i < 4; ++i) all.of[0][i] += __shfl_sync(~0u, share, (2 * t + i % 2) * 4) * sums.of[0][i];
    }
    keep(all);
    const int at = blockIdx.y * 8 + c;
    if (c < 8 && at < tokens && first + r < WIDTH) y[(u64)at * WIDTH + first + r] = narrow<T>(total(0, r, c));
#else
    const u64 expert = (u64)blockIdx.y * WIDTH * INNER;
    const T* const rows[TILES][2] = {
        {fc + expert + (u64)row[0] * INNER, fc + expert + (u64)row[1] * INNER},
        {gate + expert + (u64)row[0] * INNER, gate + expert + (u64)row[1] * INNER},
    };
    for (int base = 0; base < tokens * PICKS; base += MOST) {
        __syncthreads();
        if (warp == 0) {   // this expert's pairs, in order
            int found = 0;
            for (int i = lane; i < MOST; i += 32) {
                const bool mine = base + i < tokens * PICKS && chosen[base + i] == blockIdx.y;
                const u32 votes = __ballot_sync(~0u, mine);
                if (mine) listed[found + __popc(votes & ((1u << lane) - 1))] = base + i;
                found += __popc(votes);
            }
            if (lane == 0) count = found;
        }
        __syncthreads();
        const int pairs = count;
        for (int column = 0; column < pairs; column += 8) {
            const int pair = column + g < pairs ? listed[column + g] : -1;
            Sums sums = {};
            multiply(sums, rows, pair < 0 ? nullptr : x + (u64)(pair / PICKS) * INNER, warp, t);
            keep(sums);
            if (c >= 8 || column + c >= pairs || first + r >= WIDTH) continue;
            const float s = total(0, r, c);
            y[(u64)listed[column + c] * WIDTH + first + r] = narrow<T>(s / (1.0f + __expf(-s)) * total(TILES - 1, r, c));
        }
    }
#endif
}
