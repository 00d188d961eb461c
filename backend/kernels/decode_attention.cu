// Attention of one new token a sequence over a cache, on tensor cores: the query heads that share a key head are the rows
// of a tile. A block reads a part of a sequence's keys for one key head; a warp 16 keys at a time, from global memory
// straight to registers. The last block of a sequence's key head adds up the parts, always in the same order.
//
// T: elements of q and y. C: of the caches, T, i8 or f8e4m3. HEAD: elements of a head. GROUP: query heads a key head.
// MOST: blocks that share a sequence's key head. SHORTEST, LONGEST: keys that are worth a block, and that are more than
// one's share.
//
// FRESH: q is as a product leaves it, with the new key and value behind it (16 query heads a key head at most). A block
// turns its query heads; the one that has the newest position turns the key, too, and takes both from shared memory, while
// they go into the caches. Keys are loaded before what is launched before is done, so nothing of the same run may write what
// tells where they are. NEW: there are numbers of new tokens, 0 or 1.
#include "cache.cuh"
#include "eight.cuh"
#include "parts.cuh"
#if FRESH
#include "rope.cuh"
#endif

constexpr int ROWS = GROUP < 16 ? GROUP : 16;            // query heads of a block
constexpr int TILES = ROWS > 8 ? 2 : 1;                  // of 8 rows: 16 are multiplied anyway
constexpr int SETS = (GROUP + 15) / 16;                  // blocks that share a key head
constexpr int WIDE = HEAD / 64, LEFT = HEAD % 64 / 32;   // 64 elements of values, 8 a lane; then 32, 4 a lane
constexpr int ITEMS = ROWS * HEAD / 4;                   // fours of elements that a block makes
constexpr int AT_ONCE = 8;                               // blocks whose parts are loaded together

#if FRESH
#define GIVEN_PARAMETERS const T *q, C *keys, C *values, const int *start, TABLES_PARAMETERS
#else
#define GIVEN_PARAMETERS const T *q, const C *keys, const C *values,
#endif
#if NEW || !FRESH
#define LENGTHS_PARAMETER const int* lengths,
#else
#define LENGTHS_PARAMETER
#endif

struct Part {
    float most[TILES], total[TILES];
    float sum[8 * WIDE + 4 * LEFT][4];
};

__device__ __forceinline__ u32 low(u32 a, u32 b) { return __byte_perm(a, b, 0x5410); }
__device__ __forceinline__ u32 high(u32 a, u32 b) { return __byte_perm(a, b, 0x7632); }

#if FRESH
// The query heads of a block, turned, and the new key and value as the caches hold them.
struct Fresh {
    T query[ROWS][HEAD + 8];
    C rows[2][HEAD];
};

// The heads of a key head, from q, k and v of a token: a warp one at a time. The key and the value where they are asked for.
__device__ __forceinline__ void turn_heads(
    Fresh& to, const T* token, int head, bool asked, const Angles& angles, const float (&scales)[2]) {
    constexpr int TURNS = (ROWS + 2 + WARPS - 1) / WARPS;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    Head heads[TURNS];
#pragma unroll
    for (int n = 0; n < TURNS; ++n) {
        const int i = warp + n * WARPS, index = i < ROWS ? head * ROWS + i : HEADS + (i - ROWS) * KV_HEADS + head;
        if (i < ROWS + 2 * asked) heads[n].read(token + index * HEAD, lane);
    }
#pragma unroll
    for (int n = 0; n < TURNS; ++n) {
        const int i = warp + n * WARPS;
        if (i <= ROWS) heads[n].turn(angles);
        if (i < ROWS) heads[n].each(lane, [&](int d, float x) { to.query[i][d] = narrow<T>(x); });
        else if (i < ROWS + 2 * asked) {
            heads[n].each(lane, [&](int d, float x) { to.rows[i - ROWS][d] = appended(x, scales[i - ROWS]); });
        }
    }
}
#endif

extern "C" __global__ void __launch_bounds__(WARPS * 32) decode_attention(
    GIVEN_PARAMETERS LENGTHS_PARAMETER PAGES_PARAMETER SLOPES_PARAMETER SCALES_PARAMETERS T* y, float* workspace,
    u32* counters, int capacity, float scale, float softcap, int at_once) {
    let_next_start();
    alignas(16) __shared__ float merged[WARPS][ROWS][HEAD + 4];
    __shared__ float2 told[WARPS][ROWS];   // greatest score and total of a warp's part
    __shared__ int is_last;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    const int head = blockIdx.y / SETS, first = head * GROUP + blockIdx.y % SETS * 16, batch = blockIdx.z;
    const int rows = min(ROWS, GROUP - (int)blockIdx.y % SETS * 16);
    const u64 pair_id = (u64)batch * gridDim.y + blockIdx.y;
    if (!FRESH) wait_for_previous();

    uint4 query[HEAD / 32][TILES];
    const auto load_query = [&](const T* rows_of, int stride) {
#pragma unroll
        for (int c = 0; c < HEAD / 32; ++c) {
#pragma unroll
            for (int h = 0; h < TILES; ++h) {
                const T* from = rows_of + (g + 8 * h) * stride + c * 32 + t * 8;
                query[c][h] = g + 8 * h < rows ? *reinterpret_cast<const uint4*>(from) : make_uint4(0, 0, 0, 0);
            }
        }
    };
#if FRESH
    const int position = start[batch];
#if NEW
    const int length = position + lengths[batch];
#else
    const int length = position + 1;
#endif
#else
    load_query(q + ((u64)batch * HEADS + first) * HEAD, HEAD);
    const int length = lengths[batch];
#endif
    const int seen = WINDOW ? max(0, length - WINDOW) : 0, aligned = seen / 16 * 16;   // keys before are not seen
    const int short_parts = (length - aligned + SHORTEST - 1) / SHORTEST, long_parts = (length - aligned + LONGEST - 1) / LONGEST;
    const int most_parts = max(1, min((int)gridDim.x, max(long_parts, min(at_once, short_parts))));
    const int share = (length - aligned + most_parts * 16 - 1) / (most_parts * 16) * 16;
    const int parts = share > 0 ? (length - aligned + share - 1) / share : 1;
    if (blockIdx.x >= parts) {
        if (FRESH) wait_for_previous();
        return;
    }
    const int begin = aligned + blockIdx.x * share, end = min(length, begin + share);
    const Cache cache = cache_of(TABLE, batch, head, KV_HEADS, capacity);

    // A tile's keys are loaded as soon as those of the tile before are used, and its values likewise.
    Eight key[2][HEAD / 32], value[WIDE > 0 ? WIDE : 1][4];
    Four left[4];
    const auto key_of = [&](int tile, int j) { return min(tile + 8 * j + g, length - 1); };   // past the end: the last
    const auto value_of = [&](int tile, int r) { return min(tile + 2 * t + r % 2 + r / 2 * 8, length - 1); };   // once more
    const auto load_keys = [&](int tile, u64 row) {
#pragma unroll
        for (int j = 0; j < 2; ++j) {
            const C* from = keys + (row + key_of(tile, j) - tile) * HEAD + t * 8;
#pragma unroll
            for (int c = 0; c < HEAD / 32; ++c) key[j][c] = eight(from + c * 32);
        }
    };
    const auto load_values = [&](int tile, u64 row) {
#pragma unroll
        for (int r = 0; r < 4; ++r) {
            const C* from = values + (row + value_of(tile, r) - tile) * HEAD;
#pragma unroll
            for (int c = 0; c < WIDE; ++c) value[c][r] = eight(from + c * 64 + g * 8);
            if (LEFT) left[r] = four(from + WIDE * 64 + g * 4);
        }
    };
    const int tile = begin + warp * 16;
    u64 next_row = tile + WARPS * 16 < end ? cache.row(tile + WARPS * 16) : 0;   // of a tile that is loaded later
    if (tile < end) {
        const u64 row = cache.row(tile);
        load_keys(tile, row), load_values(tile, row);
    }

#if FRESH
    alignas(16) __shared__ Fresh fresh;
    const auto take_newest = [&](int tile) {   // in the place of what the cache had there
#pragma unroll
        for (int j = 0; j < 2; ++j) {
            if (key_of(tile, j) != position) continue;
#pragma unroll
            for (int c = 0; c < HEAD / 32; ++c) key[j][c] = *reinterpret_cast<const Eight*>(&fresh.rows[0][c * 32 + t * 8]);
        }
#pragma unroll
        for (int r = 0; r < 4; ++r) {
            if (value_of(tile, r) != position) continue;
#pragma unroll
            for (int c = 0; c < WIDE; ++c) value[c][r] = *reinterpret_cast<const Eight*>(&fresh.rows[1][c * 64 + g * 8]);
            if (LEFT) left[r] = *reinterpret_cast<const Four*>(&fresh.rows[1][WIDE * 64 + g * 4]);
        }
    };
    const bool is_newest = (blockIdx.x == 0 || position >= begin) && (blockIdx.x == parts - 1 || position < end);
    const bool is_written = is_newest && position < capacity;
    const u64 newest_row = is_written ? cache.row(position) : 0;
    const Angles angles(TABLES, position, lane);
    wait_for_previous();
#if QUANTIZED
    const float scales[2] = {key_scale[head], value_scale[head]};
#else
    const float scales[2] = {1, 1};
#endif
    turn_heads(fresh, q + (u64)batch * (HEADS + 2 * KV_HEADS) * HEAD, head, is_newest, angles, scales);
    __syncthreads();
    load_query(fresh.query[0], HEAD + 8);
    constexpr int CHUNKS = HEAD * sizeof(C) / 16;
    if (is_written && threadIdx.x < 2 * CHUNKS) {
        const int which = threadIdx.x / CHUNKS, chunk = threadIdx.x % CHUNKS;
        C* to = (which ? values : keys) + newest_row * HEAD;
        reinterpret_cast<uint4*>(to)[chunk] = reinterpret_cast<const uint4*>(fresh.rows[which])[chunk];
    }
#endif
    float slope[TILES] = {};
#if SLOPES
#pragma unroll
    for (int h = 0; h < TILES; ++h) slope[h] = g + 8 * h < rows ? slopes[first + g + 8 * h] : 0;
#endif
#if QUANTIZED
    scale *= key_scale[head];
#endif

    Part part;
#pragma unroll
    for (int h = 0; h < TILES; ++h) part.most[h] = -INFINITY, part.total[h] = 0;
#pragma unroll
    for (int j = 0; j < 8 * WIDE + 4 * LEFT; ++j) {
#pragma unroll
        for (int i = 0; i < 4; ++i) part.sum[j][i] = 0;
    }
#pragma unroll 1
    for (int at = tile, next = at + WARPS * 16; at < end; at = next, next += WARPS * 16) {
        const u64 row = next_row;
        if (next + WARPS * 16 < end) next_row = cache.row(next + WARPS * 16);
#if FRESH
        if (is_newest && at <= position && position < at + 16) take_newest(at);
#endif
        float score[2][4] = {}, other[2][4] = {};   // in two, as each product waits for the one before
#pragma unroll
        for (int j = 0; j < 2; ++j) {
#pragma unroll
            for (int c = 0; c < HEAD / 32; ++c) {
                const uint4 k = as_t(key[j][c]), a = query[c][0], b = TILES == 2 ? query[c][TILES - 1] : make_uint4(0, 0, 0, 0);
                mma<T>(score[j], a.x, b.x, a.y, b.y, k.x, k.y);
                mma<T>(other[j], a.z, b.z, a.w, b.w, k.z, k.w);
            }
        }
        if (next < end) load_keys(next, row);
#pragma unroll
        for (int j = 0; j < 2; ++j) {
#pragma unroll
            for (int i = 0; i < 2 * TILES; ++i) {
                const int place = at + 8 * j + 2 * t + i % 2;
                float s = (score[j][i] + other[j][i]) * scale;
#if SOFTCAP
                s = softcap * tanhf(s / softcap);
#endif
                s += slope[i / 2] * (place - (length - 1));
                score[j][i] = place >= seen && place < end ? s * 1.44269504f : -INFINITY;   // for powers of 2
            }
        }
#pragma unroll
        for (int h = 0; h < TILES; ++h) {
            const float here = fmaxf(fmaxf(score[0][2 * h], score[0][2 * h + 1]), fmaxf(score[1][2 * h], score[1][2 * h + 1]));
            const float most = fmaxf(part.most[h], quad_max(here));
            const float less = most == -INFINITY ? 1.0f : power_of_2(part.most[h] - most);
            part.most[h] = most;
            float total = 0;
#pragma unroll
            for (int j = 0; j < 2; ++j) {
#pragma unroll
                for (int i = 2 * h; i < 2 * h + 2; ++i) {
                    score[j][i] = most == -INFINITY ? 0.0f : power_of_2(score[j][i] - most);
                    total += score[j][i];
                }
            }
            part.total[h] = part.total[h] * less + total;
#pragma unroll
            for (int j = 0; j < 8 * WIDE + 4 * LEFT; ++j) part.sum[j][2 * h] *= less, part.sum[j][2 * h + 1] *= less;
        }
        const u32 a0 = pair<T>(score[0][0], score[0][1]), a1 = TILES == 2 ? pair<T>(score[0][2], score[0][3]) : 0;
        const u32 a2 = pair<T>(score[1][0], score[1][1]), a3 = TILES == 2 ? pair<T>(score[1][2], score[1][3]) : 0;
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
        if (next < end) load_values(next, row);
    }

    // the parts of the warps, then of the blocks
#pragma unroll
    for (int h = 0; h < TILES; ++h) {
        const int row = g + 8 * h;
        part.total[h] = quad_sum(part.total[h]);
        if (row >= ROWS) continue;
        if (t == 0) told[warp][row] = make_float2(part.most[h], part.total[h]);
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
#if QUANTIZED
    const float restored = value_scale[head];
#else
    const float restored = 1.0f;
#endif
    T* out = y + ((u64)batch * HEADS + first) * HEAD;
    float* records = workspace + pair_id * gridDim.x * ITEMS * KEPT;
    __syncthreads();
    for (int i = threadIdx.x; i < rows * HEAD / 4; i += WARPS * 32) {
        const int row = i / (HEAD / 4), d = i % (HEAD / 4) * 4;
        float2 each[WARPS];
        float4 sums[WARPS];
#pragma unroll
        for (int w = 0; w < WARPS; ++w) {
            each[w] = told[w][row];
            sums[w] = *reinterpret_cast<const float4*>(&merged[w][row][d]);
        }
        Whole whole;
        whole.add(each, sums);
        if (parts == 1) whole.write(out + 4 * i, length > 0 ? restored / whole.total : 0.0f);
        else whole.keep(records + (blockIdx.x * ITEMS + i) * KEPT);
    }
    if (parts == 1) return;
    __syncthreads();
    if (threadIdx.x == 0) is_last = arrive(counters + pair_id, parts - 1) == parts - 1;
    __syncthreads();
    if (!is_last) return;

    for (int i = threadIdx.x; i < rows * HEAD / 4; i += WARPS * 32) {
        Whole whole;
#pragma unroll 1
        for (int from = 0; from < parts; from += AT_ONCE) {
            float2 each[AT_ONCE];
            float4 sums[AT_ONCE];
#pragma unroll
            for (int n = 0; n < AT_ONCE; ++n) {
                each[n] = make_float2(-INFINITY, 0), sums[n] = make_float4(0, 0, 0, 0);
                if (from + n < parts) recall(records + ((from + n) * ITEMS + i) * KEPT, each[n], sums[n]);
            }
            whole.add(each, sums);
        }
        whole.write(out + 4 * i, length > 0 ? restored / whole.total : 0.0f);
    }
}
