// Attention of new tokens over a cache, on tensor cores (the algorithm is FlashAttention-2's, Dao, 2023,
// arXiv:2307.08691). The query heads that share a key head are rows beside each other: a block takes ROWS rows, each a token
// and one of its heads, and goes through the keys that they see, KEYS at a time, which are copied to shared memory while
// those before are used. A warp takes 16 * TILES rows.
//
// T: elements of q and y. C: of the caches, T, i8 or f8e4m3. HEAD: elements of a head. GROUP: query heads a key head.
// BLOCKS: that a multiprocessor must hold. Launches do not overlap: blocks of the next one would take the room of the first
// that end, and leave its own long ones side by side.
#include "cache.cuh"
#include "eight.cuh"
#include "tiles.cuh"

constexpr int ROWS = WARPS * 16 * TILES;
constexpr int KEYS = 64;          // of a tile; a page's
constexpr int EACH = HEAD / 8;    // 16 bytes of a row
constexpr int STRIDE = HEAD + 8;  // elements between rows in shared memory: those of 8 rows lie in different banks
constexpr float LOG2E = 1.44269504f;

// The scores of a warp's rows, then their exponentials; its sums; the greatest score and the total of each row.
struct Part {
    float score[TILES][KEYS / 8][4], sum[TILES][HEAD / 8][4], most[TILES][2], total[TILES][2];
};

// Where the tokens of a lane's rows stand, and the slopes of their heads.
struct Rows {
    int position[TILES][2];
    float slope[TILES][2];
};

// KEYS rows of a cache from `from` on, as T: all of them, or the first `count` and the last of these again, which nothing
// sees.
template <bool ALL> __device__ __forceinline__ void copy(T* to, const C* from, int count) {
    constexpr int STEP = WARPS * 32, JUMP = STEP % EACH ? 0 : STEP / EACH;   // rows between a thread's copies
#pragma unroll
    for (int i = 0; i < (KEYS * EACH + STEP - 1) / STEP; ++i) {
        const int e = i * STEP + threadIdx.x;
        const int row = JUMP ? i * JUMP + threadIdx.x / EACH : e / EACH, c = (JUMP ? threadIdx.x : e) % EACH * 8;
        if (KEYS * EACH % STEP && row >= KEYS) break;
        const C* source = ALL ? from + e * 8 : from + min(row, count - 1) * HEAD + c;
#if QUANTIZED
        *reinterpret_cast<uint4*>(to + row * STRIDE + c) = as_t(eight(source));
#else
        copy_async(shared_address(to + row * STRIDE + c), source);
#endif
    }
}
__device__ __forceinline__ void copy_rows(T* to, const C* from, int count) {
    if (count >= KEYS) copy<true>(to, from, count);
    else copy<false>(to, from, count);
}

// score = rows of queries @ rows of keys, transposed. Addresses are this lane's in the first matrices.
__device__ __forceinline__ void multiply_keys(Part& part, u32 queries, u32 keys) {
#pragma unroll
    for (int m = 0; m < TILES; ++m) {
#pragma unroll
        for (int j = 0; j < KEYS / 8; ++j) {
#pragma unroll
            for (int i = 0; i < 4; ++i) part.score[m][j][i] = 0;
        }
    }
#pragma unroll
    for (int c = 0; c < HEAD / 16; ++c) {
        uint4 a[TILES];
#pragma unroll
        for (int m = 0; m < TILES; ++m) a[m] = load_matrices(queries + (m * 16 * STRIDE + c * 16) * 2);
#pragma unroll
        for (int j = 0; j < KEYS / 8; j += 2) {
            const uint4 b = load_matrices(keys + (j * 8 * STRIDE + c * 16) * 2);
#pragma unroll
            for (int m = 0; m < TILES; ++m) {
                mma<T>(part.score[m][j], a[m].x, a[m].y, a[m].z, a[m].w, b.x, b.y);
                mma<T>(part.score[m][j + 1], a[m].x, a[m].y, a[m].z, a[m].w, b.z, b.w);
            }
        }
    }
}

// sum += score @ rows of values.
__device__ __forceinline__ void multiply_values(Part& part, u32 values) {
#pragma unroll
    for (int k = 0; k < KEYS / 16; ++k) {
        uint4 a[TILES];
#pragma unroll
        for (int m = 0; m < TILES; ++m) {
            const float(&s)[4] = part.score[m][2 * k], (&next)[4] = part.score[m][2 * k + 1];
            a[m] = make_uint4(pair<T>(s[0], s[1]), pair<T>(s[2], s[3]), pair<T>(next[0], next[1]), pair<T>(next[2], next[3]));
        }
#pragma unroll
        for (int j = 0; j < HEAD / 8; j += 2) {
            const uint4 b = load_transposed(values + (k * 16 * STRIDE + j * 8) * 2);
#pragma unroll
            for (int m = 0; m < TILES; ++m) {
                mma<T>(part.sum[m][j], a[m].x, a[m].y, a[m].z, a[m].w, b.x, b.y);
                mma<T>(part.sum[m][j + 1], a[m].x, a[m].y, a[m].z, a[m].w, b.z, b.w);
            }
        }
    }
}

// Cap, slopes, and no score where a key is not seen. `at`: the tile's first key.
__device__ __forceinline__ void finish_scores(Part& part, const Rows& rows, int at, float scale, float softcap) {
    const int key = at + threadIdx.x % 4 * 2;
#pragma unroll
    for (int m = 0; m < TILES; ++m) {
#pragma unroll
        for (int j = 0; j < KEYS / 8; ++j) {
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                float& s = part.score[m][j][i];
                const int away = key + 8 * j + i % 2 - rows.position[m][i / 2];
                if (SOFTCAP) s = softcap * tanhf(s * scale / softcap);
                if (SLOPES) s = (SOFTCAP ? s : s * scale) + rows.slope[m][i / 2] * away;
                if (away > 0 || (WINDOW && away <= -WINDOW)) s = -INFINITY;
            }
        }
    }
}

// score = exp(scale * score - the greatest of its row so far), and what came before less by as much.
__device__ __forceinline__ void take_exponentials(Part& part, float scale) {
#pragma unroll
    for (int m = 0; m < TILES; ++m) {
        float less[2];
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            float most = part.most[m][h];
            const float before = most;
#pragma unroll
            for (int j = 0; j < KEYS / 8; ++j) most = fmaxf(most, fmaxf(part.score[m][j][2 * h], part.score[m][j][2 * h + 1]));
            most = quad_max(most);
            const float base = most == -INFINITY ? 0.0f : most * scale;   // of a row that has seen no key
            less[h] = power_of_2(before * scale - base);
            part.most[m][h] = most;
            float total = 0;
#pragma unroll
            for (int j = 0; j < KEYS / 8; ++j) {
#pragma unroll
                for (int i = 2 * h; i < 2 * h + 2; ++i) {
                    part.score[m][j][i] = power_of_2(part.score[m][j][i] * scale - base);
                    total += part.score[m][j][i];
                }
            }
            part.total[m][h] = part.total[m][h] * less[h] + total;
        }
        if (!__any_sync(~0u, less[0] != 1 || less[1] != 1)) continue;
#pragma unroll
        for (int j = 0; j < HEAD / 8; ++j) {
#pragma unroll
            for (int i = 0; i < 4; ++i) part.sum[m][j][i] *= less[i / 2];
        }
    }
}

// The tiles that see the most keys begin. Where all blocks run at once, those of the second half share a multiprocessor
// with those of the first, the shortest with the longest.
__device__ __forceinline__ int tile_of_block(int at_once) {
    const int last = gridDim.z - 1, half = gridDim.z / 2, tile = last - blockIdx.z;
    return tile < half && gridDim.x * gridDim.y * gridDim.z <= at_once ? half - 1 - tile : tile;
}

extern "C" __global__ void __launch_bounds__(WARPS * 32, BLOCKS) prefill_attention(
    const T* q, const C* keys, const C* values, const int* start, const int* lengths,
    PAGES_PARAMETER SLOPES_PARAMETER SCALES_PARAMETERS T* y, int tokens, int capacity, float scale, float softcap, int at_once) {
    extern __shared__ char memory[];
    T* const queries = reinterpret_cast<T*>(memory);
    T* const key_tile = queries + ROWS * STRIDE;
    T* const value_tile = key_tile + KEYS * STRIDE;
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    const int head = blockIdx.x, batch = blockIdx.y;
    const int first = tile_of_block(at_once) * ROWS;
    const auto place_of = [&](int row) {
        return (((u64)batch * tokens + row / GROUP) * HEADS + head * GROUP + row % GROUP) * HEAD;
    };

    const int past = start[batch], real = lengths[batch] * GROUP, made = min(ROWS, tokens * GROUP - first);
    if (first >= real) {
        for (int i = threadIdx.x; i < made * EACH; i += WARPS * 32) {
            *reinterpret_cast<uint4*>(y + place_of(first + i / EACH) + i % EACH * 8) = make_uint4(0, 0, 0, 0);
        }
        return;
    }
    const int near = past + first / GROUP, far = past + (min(first + ROWS, real) - 1) / GROUP;   // where tokens stand
    const int begin = WINDOW ? max(0, near - WINDOW + 1) / KEYS * KEYS : 0, end = far + 1;
    const Cache cache = cache_of(TABLE, batch, head, HEADS / GROUP, capacity);
#if QUANTIZED
    scale *= key_scale[head];
    const float restored = value_scale[head];
#else
    const float restored = 1.0f;
#endif

    for (int i = threadIdx.x; i < ROWS * EACH; i += WARPS * 32) {
        const int row = i / EACH, c = i % EACH * 8;
        copy_async(shared_address(queries + row * STRIDE + c), q + place_of(min(first + row, real - 1)) + c);
    }
    copy_rows(key_tile, keys + cache.row(begin) * HEAD, end - begin);

    Part part;
    Rows rows;
#pragma unroll
    for (int m = 0; m < TILES; ++m) {
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            const int row = first + (warp * TILES + m) * 16 + h * 8 + g;
            rows.position[m][h] = past + row / GROUP;
#if SLOPES
            rows.slope[m][h] = slopes[head * GROUP + row % GROUP];
#endif
            part.most[m][h] = -INFINITY, part.total[m][h] = 0;
        }
#pragma unroll
        for (int j = 0; j < HEAD / 8; ++j) {
#pragma unroll
            for (int i = 0; i < 4; ++i) part.sum[m][j][i] = 0;
        }
    }
    const int matrix = lane / 8, r = lane % 8;
    T* const mine = queries + warp * TILES * 16 * STRIDE;
    const u32 query_at = shared_address(mine + (matrix % 2 * 8 + r) * STRIDE + matrix / 2 * 8);
    const u32 key_at = shared_address(key_tile + (matrix / 2 * 8 + r) * STRIDE + matrix % 2 * 8);
    const u32 value_at = shared_address(value_tile + (matrix % 2 * 8 + r) * STRIDE + matrix / 2 * 8);
    u64 source = cache.row(begin);
#pragma unroll 1
    for (int at = begin; at < end; at += KEYS) {
        const int left = end - at;
        wait_for_copies();
        __syncthreads();   // keys are there, values of the tile before are used
        copy_rows(value_tile, values + source * HEAD, left);
        if (left > KEYS) source = cache.row(at + KEYS);
        multiply_keys(part, query_at, key_at);
        wait_for_copies();
        __syncthreads();   // values are there, keys are used
        if (left > KEYS) copy_rows(key_tile, keys + source * HEAD, left - KEYS);

        const bool all = at + KEYS - 1 <= near && !(WINDOW && at <= far - WINDOW);   // are seen by every row
        if (SOFTCAP || SLOPES || !all) finish_scores(part, rows, at, scale, softcap);
        take_exponentials(part, SOFTCAP || SLOPES ? LOG2E : scale * LOG2E);
        multiply_values(part, value_at);
    }

    // through shared memory, where this warp's queries were, for whole rows
#pragma unroll
    for (int m = 0; m < TILES; ++m) {
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            const int row = (warp * TILES + m) * 16 + h * 8 + g;
            const float total = quad_sum(part.total[m][h]), factor = first + row < real ? restored / total : 0.0f;
            u32* to = reinterpret_cast<u32*>(queries + row * STRIDE) + t;
#pragma unroll
            for (int j = 0; j < HEAD / 8; ++j) {
                to[4 * j] = pair<T>(part.sum[m][j][2 * h] * factor, part.sum[m][j][2 * h + 1] * factor);
            }
        }
    }
    __syncwarp();
    for (int i = lane; i < TILES * 16 * EACH; i += 32) {
        const int row = warp * TILES * 16 + i / EACH, c = i % EACH * 8;
        if (row < made) *reinterpret_cast<uint4*>(y + place_of(first + row) + c) = *reinterpret_cast<uint4*>(queries + row * STRIDE + c);
    }
}
