// Attention of new tokens over a cache, on Hopper's tensor cores (the algorithm is FlashAttention-3's, Shah et al., 2024,
// arXiv:2407.08608). The query heads that share a key head are rows beside each other: a tile is ROWS rows, each a token and
// one of its heads. A block takes tile after tile, those that see the most keys first, from a count that all blocks share.
// Its last warpgroup copies: queries, and KEYS keys and values at a time, from the last that the tile sees to the first. The
// others take 64 rows each: shares of a tile of keys are made while those of the tile before are multiplied with values,
// and while the other warpgroup multiplies.
//
// T: elements of everything. HEAD: elements of a head. GROUP: query heads a key head. STAGES: tiles of keys or values that
// shared memory holds. Launches do not overlap, as those of prefill_attention.cu.
#include "barriers.cuh"
#include "cache.cuh"
#include "tiles.cuh"
#include "wgmma.cuh"

constexpr int ROWS = 128, KEYS = 128, COPIERS = 128;
constexpr int SECTION = 16;        // key heads of sequences whose tiles are taken before those of the next
constexpr int WARPS = ROWS / 16;   // that multiply
constexpr int EACH = HEAD / 8;     // 16 bytes of a row
constexpr int QUERY_BYTES = ROWS * HEAD * 2, TILE_BYTES = KEYS * HEAD * 2;
constexpr float LOG2E = 1.44269504f;

// The operands. `table`: of pages, or none.
struct Problem {
    const T *q, *keys, *values;
    const int *start, *lengths, *table;
    int pages;
    const float* slopes;
    T* y;
    int tokens, items, capacity;
    float scale, softcap;
};

// Addresses in shared memory: two places for queries, STAGES for tiles, for each place a barrier that says that it is full,
// and one that it is empty; which item the queries are of, and which comes next.
struct Shared {
    u32 queries, tiles, barriers;
    int *items, *coming;

    __device__ __forceinline__ u32 query(int slot) const { return queries + slot * QUERY_BYTES; }
    __device__ __forceinline__ u32 tile(int slot) const { return tiles + slot * TILE_BYTES; }
    __device__ __forceinline__ u32 query_full(int slot) const { return barriers + slot * 8; }
    __device__ __forceinline__ u32 query_empty(int slot) const { return barriers + (2 + slot) * 8; }
    __device__ __forceinline__ u32 full(int slot) const { return barriers + (4 + slot) * 8; }
    __device__ __forceinline__ u32 empty(int slot) const { return barriers + (4 + STAGES + slot) * 8; }
};

// One tile of rows of a key head of a sequence. `real`: rows of the sequence that are no padding, `past`: tokens before,
// `begin` and `end`: keys that the tile sees; there are none in one of padding.
struct Item {
    int head, batch, first, real, past, begin, end;

    __device__ __forceinline__ bool is_padding() const { return first >= real; }
    __device__ __forceinline__ int last_tile() const { return begin + (end - 1 - begin) / KEYS * KEYS; }
    // Where in q and y the tile begins, and how far from there its row `row` lies.
    __device__ __forceinline__ u64 place(int tokens) const {
        return (((u64)batch * tokens + first / GROUP) * HEADS + head * GROUP) * HEAD;
    }
    __device__ __forceinline__ int offset(int row) const {
        const int r = first % GROUP + row;
        return (r / GROUP * HEADS + r % GROUP) * HEAD;
    }
};

// Section after section, so that the L2 cache holds its keys and values; of a section first the tiles that see the most.
__device__ __forceinline__ Item item_of(int number, const Problem& p) {
    const int tiles = (p.tokens * GROUP + ROWS - 1) / ROWS, pairs = p.items / tiles, section = number / (SECTION * tiles);
    const int begin = section * SECTION, width = min(SECTION, pairs - begin), place = number - begin * tiles;
    const int pair = begin + place % width;
    Item item;
    item.head = pair % KV_HEADS, item.batch = pair / KV_HEADS;
    item.first = (tiles - 1 - place / width) * ROWS;
    item.real = p.lengths[item.batch] * GROUP, item.past = p.start[item.batch];
    const int near = item.past + item.first / GROUP;
    item.begin = WINDOW ? max(0, near - WINDOW + 1) / KEYS * KEYS : 0;
    item.end = item.past + (min(item.first + ROWS, item.real) - 1) / GROUP + 1;
    return item;
}

// --- the warpgroup that copies

// KEYS rows of a cache from `at` on; those from `end` on are the last again, which nothing sees.
__device__ __forceinline__ void copy_tile(u32 to, const T* from, const Cache& cache, int at, int end, int me) {
    constexpr int STEP = COPIERS / EACH;
    const int r = me / EACH, c = me % EACH;
    to += piece_at<KEYS>(r, c);
#pragma unroll
    for (int half = 0; half < KEYS; half += 64) {
        const int begin = min(at + half, end - 1), count = end - begin;
        const T* source = from + cache.row(begin) * HEAD + c * 8;
        if (count >= 64) {
#pragma unroll
            for (int i = 0; i < 64; i += STEP) copy_async(to + (half + i) * 128, source + (r + i) * HEAD);
        } else {
#pragma unroll
            for (int i = 0; i < 64; i += STEP) copy_async(to + (half + i) * 128, source + min(r + i, count - 1) * HEAD);
        }
    }
}

__device__ __forceinline__ void copy_queries(u32 to, const Item& item, const Problem& p, int me) {
    constexpr int STEP = COPIERS / EACH;
    const int r = me / EACH, c = me % EACH;
    const T* from = p.q + item.place(p.tokens) + c * 8;
    to += piece_at<ROWS>(r, c);
#pragma unroll
    for (int i = 0; i < ROWS; i += STEP) {
        copy_async(to + i * 128, from + item.offset(min(r + i, item.real - 1 - item.first)));
    }
}

// Keys, and the values of the tile before, until all are copied.
__device__ __forceinline__ void copy_all(const Item& item, const Problem& p, const Shared& s, Ring<STAGES>& ring, int me) {
    const Cache cache = cache_of(p.table, p.pages, item.batch, item.head, KV_HEADS, p.capacity);
    const auto load = [&](const T* from, int at) {
        wait_for_phase(s.empty(ring.slot), ring.parity ^ 1);
        copy_tile(s.tile(ring.slot), from, cache, at, item.end, me);
        arrive_with_copies(s.full(ring.slot));
        ring.next();
    };
    int at = item.last_tile();
    load(p.keys, at);
#pragma unroll 1
    for (; at > item.begin; at -= KEYS) {
        load(p.keys, at - KEYS);
        load(p.values, at);
    }
    load(p.values, at);
}

// Takes items from the count until there are none; -1 ends the others. Of all that blocks take, the last sets it to zero.
__device__ __forceinline__ void copy_items(const Problem& p, const Shared& s, unsigned* counter) {
    const int me = threadIdx.x % COPIERS;
    Ring<2> of_queries;
    Ring<STAGES> of_tiles;
    int number = blockIdx.x, coming = 0;
    for (;;) {
        const bool is_item = number < p.items;
        if (me == 0 && is_item) coming = gridDim.x + atomicInc(counter, p.items - 1);
        wait_for_phase(s.query_empty(of_queries.slot), of_queries.parity ^ 1);
        Item item;
        if (is_item) item = item_of(number, p);
        const bool copies = is_item && !item.is_padding();
        if (copies) copy_queries(s.query(of_queries.slot), item, p, me);
        arrive_with_copies(s.query_full(of_queries.slot));
        if (me == 0) {
            s.items[of_queries.slot] = is_item ? number : -1;
            arrive(s.query_full(of_queries.slot));
        }
        if (!is_item) break;
        if (copies) copy_all(item, p, s, of_tiles, me);
        if (me == 0) s.coming[of_queries.slot] = coming;
        wait_together(1, COPIERS);
        number = s.coming[of_queries.slot];
        of_queries.next();
    }
}

// --- those that multiply

// A thread's scores of two rows, then their exponentials; these as T; its sums; the greatest score and the total of each
// row; where the rows' tokens stand, and the slopes of their heads.
struct Part {
    float score[KEYS / 2], sum[HEAD / 2];
    u32 share[KEYS / 16][4];
    float most[2], total[2], slope[2];
    int position[2];
};

// score = rows of queries @ rows of keys, transposed.
__device__ __forceinline__ void multiply_keys(Part& part, u32 queries, u32 keys) {
    const u64 a = matrix_at(queries), b = matrix_at(keys);
    settle(part.score);
    begin_products();
    multiply_shared<false>(part.score, a, b);
#pragma unroll
    for (int k = 1; k < HEAD / 16; ++k) {
        multiply_shared<true>(part.score, further(a, k / 4 * ROWS * 128 + k % 4 * 32), further(b, k / 4 * KEYS * 128 + k % 4 * 32));
    }
    end_products();
}

// sum += share @ rows of values.
__device__ __forceinline__ void multiply_values(Part& part, u32 values) {
    const u64 b = matrix_at(values, KEYS * 128);
    settle(part.sum);
    settle(part.share);
    begin_products();
#pragma unroll
    for (int k = 0; k < KEYS / 16; ++k) multiply_registers(part.sum, part.share[k], further(b, k * 16 * 128));
    end_products();
}

// Cap, slopes, and no score where a key is not seen. `at`: the tile's first key.
__device__ __forceinline__ void finish_scores(Part& part, int at, float scale, float softcap) {
    const int key = at + threadIdx.x % 4 * 2;
#pragma unroll
    for (int i = 0; i < KEYS / 2; ++i) {
        float& s = part.score[i];
        const int h = i / 2 % 2, away = key + i / 4 * 8 + i % 2 - part.position[h];
        if (SOFTCAP) s = softcap * tanhf(s * scale / softcap);
        if (SLOPES) s = (SOFTCAP ? s : s * scale) + part.slope[h] * away;
        if (away > 0 || (WINDOW && away <= -WINDOW)) s = -INFINITY;
    }
}

// score = exp(scale * score - the greatest of its row so far); what came before counts `less`.
__device__ __forceinline__ void take_exponentials(Part& part, float (&less)[2], float scale) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
        float most = part.most[h];
        const float before = most;
#pragma unroll
        for (int i = 2 * h; i < KEYS / 2; i += 4) most = fmaxf(most, fmaxf(part.score[i], part.score[i + 1]));
        most = quad_max(most);
        const float base = most == -INFINITY ? 0.0f : most * scale;   // of a row that has seen no key
        less[h] = power_of_2(before * scale - base);
        part.most[h] = most;
        float total = 0;
#pragma unroll
        for (int i = 2 * h; i < KEYS / 2; i += 4) {
            part.score[i] = power_of_2(part.score[i] * scale - base);
            part.score[i + 1] = power_of_2(part.score[i + 1] * scale - base);
            total += part.score[i] + part.score[i + 1];
        }
        part.total[h] = part.total[h] * less[h] + total;
    }
}

__device__ __forceinline__ void make_shares(Part& part) {
#pragma unroll
    for (int i = 0; i < KEYS / 4; ++i) part.share[i / 4][i % 4] = pair<T>(part.score[2 * i], part.score[2 * i + 1]);
}

__device__ __forceinline__ void start_part(Part& part, const Item& item, const Problem& p, int row) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
        part.position[h] = item.past + (row + 8 * h) / GROUP;
        if (SLOPES) part.slope[h] = p.slopes[item.head * GROUP + (row + 8 * h) % GROUP];
        part.most[h] = -INFINITY, part.total[h] = 0;
    }
#pragma unroll
    for (int i = 0; i < HEAD / 2; ++i) part.sum[i] = 0;
}

// The sums of a warpgroup's rows over all tiles of keys. `queries`: where its rows lie, `first`: which they are.
__device__ __forceinline__ void attend(
    Part& part, const Item& item, const Problem& p, const Shared& s, Ring<STAGES>& ring, u32 queries, int first) {
    const int lane = threadIdx.x % 32;
    const int near = item.past + first / GROUP, far = item.past + (first + 63) / GROUP;   // where its tokens stand
    const float scale = SOFTCAP || SLOPES ? LOG2E : p.scale * LOG2E;
    const auto fill = [&] {   // until the next tile is full
        wait_for_phase(s.full(ring.slot), ring.parity);
        show_to_products();
        const int slot = ring.slot;
        ring.next();
        return slot;
    };
    const auto release = [&](int slot) {
        if (lane == 0) arrive(s.empty(slot));
    };
    float less[2];
    int at = item.last_tile(), keys = fill();
    multiply_keys(part, queries, s.tile(keys));
    wait_for_products<0>();
    settle(part.score);
    release(keys);
    finish_scores(part, at, p.scale, p.softcap);
    take_exponentials(part, less, scale);
    make_shares(part);
    if (at > item.begin) keys = fill();
#pragma unroll 1
    while (at > item.begin) {
        at -= KEYS;
        multiply_keys(part, queries, s.tile(keys));
        const int values = fill();
        multiply_values(part, s.tile(values));
        wait_for_products<1>();
        settle(part.score);
        release(keys);
        const bool all = at + KEYS - 1 <= near && !(WINDOW && at <= far - WINDOW);   // are seen by every row
        if (SOFTCAP || SLOPES || !all) finish_scores(part, at, p.scale, p.softcap);
        take_exponentials(part, less, scale);
        settle(part.score);
        settle(part.total);
        if (at > item.begin) keys = fill();   // before the next wait, which the compiler moves up to here, and no further
        wait_for_products<0>();
        settle(part.sum);
        settle(part.share);
        release(values);
        make_shares(part);
#pragma unroll
        for (int i = 0; i < HEAD / 2; ++i) part.sum[i] *= less[i / 2 % 2];
    }
    const int values = fill();
    multiply_values(part, s.tile(values));
    wait_for_products<0>();
    settle(part.sum);
    release(values);
}

// A warp's sums over their totals, through shared memory, where its queries were, for whole rows.
__device__ __forceinline__ void write_rows(const Part& part, const Item& item, const Problem& p, char* queries, int row) {
    const int lane = threadIdx.x % 32, made = p.tokens * GROUP - item.first;
#pragma unroll
    for (int h = 0; h < 2; ++h) {
        const int mine = row + h * 8 + lane / 4;
        const float total = quad_sum(part.total[h]), factor = item.first + mine < item.real ? 1 / total : 0.0f;
#pragma unroll
        for (int j = 0; j < EACH; ++j) {
            const float* sum = part.sum + 4 * j + 2 * h;
            reinterpret_cast<u32*>(queries + piece_at<ROWS>(mine, j))[lane % 4] = pair<T>(sum[0] * factor, sum[1] * factor);
        }
    }
    __syncwarp();
    const int r = row + lane / EACH, c = lane % EACH;
    T* const to = p.y + item.place(p.tokens) + c * 8;
#pragma unroll
    for (int i = 0; i < 16; i += 32 / EACH) {
        const uint4 x = *reinterpret_cast<uint4*>(queries + piece_at<ROWS>(r + i, c));
        if (r + i < made) *reinterpret_cast<uint4*>(to + item.offset(r + i)) = x;
    }
    __syncwarp();
}

__device__ __forceinline__ void write_zeros(const Item& item, const Problem& p) {
    const int made = min(ROWS, p.tokens * GROUP - item.first);
    T* const to = p.y + item.place(p.tokens);
    for (int i = threadIdx.x; i < made * EACH; i += WARPS * 32) {
        *reinterpret_cast<uint4*>(to + item.offset(i / EACH) + i % EACH * 8) = make_uint4(0, 0, 0, 0);
    }
}

__device__ __forceinline__ void multiply_items(const Problem& p, const Shared& s, char* memory) {
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, warpgroup = warp / 4;
    Ring<2> of_queries;
    Ring<STAGES> of_tiles;
    for (;; of_queries.next()) {
        const int slot = of_queries.slot;
        wait_for_phase(s.query_full(slot), of_queries.parity);
        const int number = s.items[slot];
        if (number < 0) break;
        const Item item = item_of(number, p);
        if (item.is_padding()) {
            write_zeros(item, p);
        } else {
            Part part;
            start_part(part, item, p, item.first + warp * 16 + lane / 4);
            attend(part, item, p, s, of_tiles, s.query(slot) + warpgroup * 64 * 128, item.first + warpgroup * 64);
            write_rows(part, item, p, memory + slot * QUERY_BYTES, warp * 16);
        }
        if (lane == 0) arrive(s.query_empty(slot));
    }
}

extern "C" __global__ void __launch_bounds__(ROWS * 2 + COPIERS, 1) hopper_prefill_attention(
    const T* q, const T* keys, const T* values, const int* start, const int* lengths, PAGES_PARAMETER SLOPES_PARAMETER T* y,
    unsigned* counter, int tokens, int items, int capacity, float scale, float softcap) {
    extern __shared__ char memory[];
    char* const aligned = memory + (-shared_address(memory) & 1023);
    const u32 base = shared_address(aligned), tiles = base + 2 * QUERY_BYTES, barriers = tiles + STAGES * TILE_BYTES;
    int* const numbers = reinterpret_cast<int*>(aligned + (barriers - base) + (4 + 2 * STAGES) * 8);
    const Shared s{base, tiles, barriers, numbers, numbers + 2};
    const Problem p{q, keys, values, start, lengths, TABLE, SLOPES_OR_NONE, y, tokens, items, capacity, scale, softcap};
    if (threadIdx.x == 0) {
        for (int i = 0; i < 2; ++i) make_barrier(s.query_full(i), COPIERS + 1), make_barrier(s.query_empty(i), WARPS);
        for (int i = 0; i < STAGES; ++i) make_barrier(s.full(i), COPIERS), make_barrier(s.empty(i), WARPS);
    }
    __syncthreads();
    if (threadIdx.x >= ROWS * 2) {
        shrink_registers<40>();
        copy_items(p, s, counter);
    } else {
        grow_registers<232>();
        multiply_items(p, s, aligned);
    }
}
