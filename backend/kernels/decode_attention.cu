// Attention of one new token a sequence over a cache, on tensor cores: the query heads that share a key head are the rows
// of a tile. A block reads a part of a sequence's keys for one key head; a warp 16 keys at a time, from global memory
// straight to registers. The last block of a sequence's key head adds up the parts, always in the same order.
//
// T: elements of q and y. C: of the caches, T, i8 or f8e4m3. HEAD: elements of a head. GROUP: query heads a key head. MOST: blocks
// that share a sequence's key head. SHORTEST, LONGEST: keys that are worth a block, and that are more than one's share.
#include "cache.cuh"
#include "eight.cuh"

constexpr int ROWS = GROUP < 16 ? GROUP : 16;            // query heads of a block
constexpr int SETS = (GROUP + 15) / 16;                  // blocks that share a key head
constexpr int WIDE = HEAD / 64, LEFT = HEAD % 64 / 32;   // 64 elements of values, 8 a lane; then 32, 4 a lane
constexpr int RECORD = HEAD + 2;                         // floats of a query head's part: sums, greatest score, total

struct Part {
    float most[2], total[2];
    float sum[8 * WIDE + 4 * LEFT][4];
};

__device__ __forceinline__ u32 low(u32 a, u32 b) { return __byte_perm(a, b, 0x5410); }
__device__ __forceinline__ u32 high(u32 a, u32 b) { return __byte_perm(a, b, 0x7632); }

extern "C" __global__ void __launch_bounds__(WARPS * 32) decode_attention(
    const T* q, const C* keys, const C* values, const int* lengths,
    PAGES_PARAMETER SLOPES_PARAMETER SCALES_PARAMETERS T* y, float* workspace, u32* counters, int capacity, float scale, float softcap, int at_once) {
    let_next_start();
    __shared__ float merged[WARPS][ROWS][HEAD + 4], factors[ROWS][MOST], totals[ROWS][MOST];
    __shared__ float most_of[WARPS][ROWS], total_of[WARPS][ROWS], most_here[ROWS], total_here[ROWS];
    __shared__ int is_last;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    const int head = blockIdx.y / SETS, first = head * GROUP + blockIdx.y % SETS * 16, batch = blockIdx.z;
    const int rows = min(ROWS, GROUP - (int)blockIdx.y % SETS * 16);
    const u64 pair_id = (u64)batch * gridDim.y + blockIdx.y;
    wait_for_previous();

    const int length = lengths[batch];
    const int seen = WINDOW ? max(0, length - WINDOW) : 0, aligned = seen / 16 * 16;   // keys before are not seen
    const int short_parts = (length - aligned + SHORTEST - 1) / SHORTEST, long_parts = (length - aligned + LONGEST - 1) / LONGEST;
    const int most_parts = max(1, min((int)gridDim.x, max(long_parts, min(at_once, short_parts))));
    const int share = (length - aligned + most_parts * 16 - 1) / (most_parts * 16) * 16;
    const int parts = share > 0 ? (length - aligned + share - 1) / share : 1;
    if (blockIdx.x >= parts) return;
    const int begin = aligned + blockIdx.x * share, end = min(length, begin + share);
    T* out = y + ((u64)batch * HEADS + first) * HEAD;
    if (length <= 0) {   // no key: zeros
        for (int i = threadIdx.x; i < rows * HEAD; i += WARPS * 32) out[i] = narrow<T>(0);
        return;
    }

    uint4 query[HEAD / 32][2];
#pragma unroll
    for (int c = 0; c < HEAD / 32; ++c) {
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            const T* from = q + ((u64)batch * HEADS + first + g + 8 * h) * HEAD + c * 32 + t * 8;
            query[c][h] = g + 8 * h < rows ? *reinterpret_cast<const uint4*>(from) : make_uint4(0, 0, 0, 0);
        }
    }
    float slope[2] = {0, 0};
#if SLOPES
#pragma unroll
    for (int h = 0; h < 2; ++h) slope[h] = g + 8 * h < rows ? slopes[first + g + 8 * h] : 0;
#endif
#if QUANTIZED
    scale *= key_scale[head];
#endif
    const Cache cache = cache_of(TABLE, batch, head, HEADS / GROUP, capacity);

    Part part;
#pragma unroll
    for (int h = 0; h < 2; ++h) part.most[h] = -INFINITY, part.total[h] = 0;
#pragma unroll
    for (int j = 0; j < 8 * WIDE + 4 * LEFT; ++j) {
#pragma unroll
        for (int i = 0; i < 4; ++i) part.sum[j][i] = 0;
    }
    // A tile's keys are loaded as soon as those of the tile before are used, and its values likewise.
    Eight key[2][HEAD / 32], value[WIDE > 0 ? WIDE : 1][4];
    Four left[4];
    const auto load_keys = [&](int start) {   // past the end: the last key once more, which nothing sees
#pragma unroll
        for (int j = 0; j < 2; ++j) {
            const C* from = keys + cache.row(min(start + 8 * j + g, length - 1)) * HEAD + t * 8;
#pragma unroll
            for (int c = 0; c < HEAD / 32; ++c) key[j][c] = eight(from + c * 32);
        }
    };
    const auto load_values = [&](int start) {
#pragma unroll
        for (int r = 0; r < 4; ++r) {
            const C* from = values + cache.row(min(start + 2 * t + r % 2 + r / 2 * 8, length - 1)) * HEAD;
#pragma unroll
            for (int c = 0; c < WIDE; ++c) value[c][r] = eight(from + c * 64 + g * 8);
            if (LEFT) left[r] = four(from + WIDE * 64 + g * 4);
        }
    };
    if (begin + warp * 16 < end) load_keys(begin + warp * 16), load_values(begin + warp * 16);
#pragma unroll 1
    for (int start = begin + warp * 16, next = start + WARPS * 16; start < end; start = next, next += WARPS * 16) {
        float score[2][4] = {};
#pragma unroll
        for (int j = 0; j < 2; ++j) {
#pragma unroll
            for (int c = 0; c < HEAD / 32; ++c) {
                const uint4 k = as_t(key[j][c]), a = query[c][0], b = query[c][1];
                mma<T>(score[j], a.x, b.x, a.y, b.y, k.x, k.y);
                mma<T>(score[j], a.z, b.z, a.w, b.w, k.z, k.w);
            }
        }
        if (next < end) load_keys(next);
#pragma unroll
        for (int j = 0; j < 2; ++j) {
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                const int at = start + 8 * j + 2 * t + i % 2;
                float s = score[j][i] * scale;
#if SOFTCAP
                s = softcap * tanhf(s / softcap);
#endif
                s += slope[i / 2] * (at - (length - 1));
                score[j][i] = at >= seen && at < end ? s * 1.44269504f : -INFINITY;   // for powers of 2
            }
        }
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            const float here = fmaxf(fmaxf(score[0][2 * h], score[0][2 * h + 1]), fmaxf(score[1][2 * h], score[1][2 * h + 1]));
            const float most = fmaxf(part.most[h], quad_max(here));
            const float less = most == -INFINITY ? 1.0f : exp2f(part.most[h] - most);
            part.most[h] = most;
            float total = 0;
#pragma unroll
            for (int j = 0; j < 2; ++j) {
#pragma unroll
                for (int i = 2 * h; i < 2 * h + 2; ++i) {
                    score[j][i] = most == -INFINITY ? 0.0f : exp2f(score[j][i] - most);
                    total += score[j][i];
                }
            }
            part.total[h] = part.total[h] * less + total;
#pragma unroll
            for (int j = 0; j < 8 * WIDE + 4 * LEFT; ++j) part.sum[j][2 * h] *= less, part.sum[j][2 * h + 1] *= less;
        }
        const u32 a0 = pair<T>(score[0][0], score[0][1]), a1 = pair<T>(score[0][2], score[0][3]);
        const u32 a2 = pair<T>(score[1][0], score[1][1]), a3 = pair<T>(score[1][2], score[1][3]);
#pragma unroll
        for (int c = 0; c < WIDE; ++c) {
            const uint4 v[4] = {as_t(value[c][0]), as_t(value[c][1]), as_t(value[c][2]), as_t(value[c][3])};
#pragma unroll
            for (int w = 0; w < 4; ++w) {
                const u32 r0 = word_of(v[0], w), r1 = word_of(v[1], w), r2 = word_of(v[2], w), r3 = word_of(v[3], w);
                mma<T>(part.sum[8 * c + 2 * w], a0, a1, a2, a3, low(r0, r1), low(r2, r3));
                mma<T>(part.sum[8 * c + 2 * w + 1], a0, a1, a2, a3, high(r0, r1), high(r2, r3));
            }
        }
#if HEAD % 64
        const uint2 v[4] = {as_t(left[0]), as_t(left[1]), as_t(left[2]), as_t(left[3])};
#pragma unroll
        for (int w = 0; w < 2; ++w) {
            const u32 r0 = w ? v[0].y : v[0].x, r1 = w ? v[1].y : v[1].x, r2 = w ? v[2].y : v[2].x, r3 = w ? v[3].y : v[3].x;
            mma<T>(part.sum[8 * WIDE + 2 * w], a0, a1, a2, a3, low(r0, r1), low(r2, r3));
            mma<T>(part.sum[8 * WIDE + 2 * w + 1], a0, a1, a2, a3, high(r0, r1), high(r2, r3));
        }
#endif
        if (next < end) load_values(next);
    }

    // the parts of the warps, then of the blocks
#pragma unroll
    for (int h = 0; h < 2; ++h) {
        const int row = g + 8 * h;
        part.total[h] = quad_sum(part.total[h]);
        if (row < ROWS && t == 0) most_of[warp][row] = part.most[h], total_of[warp][row] = part.total[h];
        if (row >= ROWS) continue;
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            const int n = 2 * t + i, e = 2 * h + i;
#pragma unroll
            for (int j = 0; j < 8 * WIDE; j += 4) {
                float4* to = reinterpret_cast<float4*>(&merged[warp][row][j / 8 * 64 + n * 8 + j % 8]);
                *to = make_float4(part.sum[j][e], part.sum[j + 1][e], part.sum[j + 2][e], part.sum[j + 3][e]);
            }
#if HEAD % 64
            constexpr int j = 8 * WIDE;
            float4* to = reinterpret_cast<float4*>(&merged[warp][row][WIDE * 64 + n * 4]);
            *to = make_float4(part.sum[j][e], part.sum[j + 1][e], part.sum[j + 2][e], part.sum[j + 3][e]);
#endif
        }
    }
    __syncthreads();
    if (threadIdx.x < ROWS) {   // a query head each: the factor of each warp's part
        const int row = threadIdx.x;
        float m = -INFINITY, total = 0;
#pragma unroll
        for (int w = 0; w < WARPS; ++w) m = fmaxf(m, most_of[w][row]);
#pragma unroll
        for (int w = 0; w < WARPS; ++w) {
            const float factor = most_of[w][row] == -INFINITY ? 0.0f : exp2f(most_of[w][row] - m);
            total += total_of[w][row] * factor;
            most_of[w][row] = factor;
        }
        most_here[row] = m, total_here[row] = total;
    }
    __syncthreads();
#if QUANTIZED
    const float restored = value_scale[head];
#else
    const float restored = 1.0f;
#endif
    float* records = workspace + pair_id * gridDim.x * ROWS * RECORD;
    float* mine = records + (u64)blockIdx.x * ROWS * RECORD;
    for (int i = threadIdx.x; i < rows * HEAD; i += WARPS * 32) {
        const int row = i / HEAD, d = i % HEAD;
        float sum = 0;
#pragma unroll
        for (int w = 0; w < WARPS; ++w) sum += merged[w][row][d] * most_of[w][row];
        if (parts == 1) out[i] = narrow<T>(sum / total_here[row] * restored);
        else mine[row * RECORD + d] = sum;
    }
    if (parts == 1) return;
    if (threadIdx.x < rows) {
        mine[threadIdx.x * RECORD + HEAD] = most_here[threadIdx.x];
        mine[threadIdx.x * RECORD + HEAD + 1] = total_here[threadIdx.x];
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        __threadfence();
        is_last = atomicAdd(counters + pair_id, 1) == parts - 1;
        if (is_last) counters[pair_id] = 0;   // as every launch finds it
        __threadfence();
    }
    __syncthreads();
    if (!is_last) return;

    for (int row = warp; row < rows; row += WARPS) {   // a warp a query head: the factor of each block's part
        float m = -INFINITY, total = 0;
        for (int p = lane; p < parts; p += 32) {
            const float* record = records + ((u64)p * ROWS + row) * RECORD + HEAD;
            factors[row][p] = __ldcg(record);
            totals[row][p] = __ldcg(record + 1);
            m = fmaxf(m, factors[row][p]);
        }
        m = warp_max(m);
        for (int p = lane; p < parts; p += 32) {
            factors[row][p] = exp2f(factors[row][p] - m);
            total += totals[row][p] * factors[row][p];
        }
        total = warp_sum(total);
        for (int p = lane; p < parts; p += 32) factors[row][p] *= restored / total;
    }
    __syncthreads();
    for (int i = threadIdx.x; i < rows * HEAD / 2; i += WARPS * 32) {
        const int row = i / (HEAD / 2), d = i % (HEAD / 2) * 2;
        const float2* from = reinterpret_cast<const float2*>(records + row * RECORD + d);
        float2 sum = make_float2(0, 0);
#pragma unroll 8
        for (int p = 0; p < parts; ++p) {
            const float2 x = __ldcg(from + (u64)p * ROWS * RECORD / 2);
            sum.x += x.x * factors[row][p], sum.y += x.y * factors[row][p];
        }
        Pack<T, 2> y;
        y.set(0, sum.x), y.set(1, sum.y);
        store<T, 2>(out + 2 * i, y);
    }
}
