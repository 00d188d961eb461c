// From the heads of q, k and v of S new tokens: q turned, to y; k turned and v into the caches, each sequence from its
// own position on. A warp takes EACH heads of a token, WARPS apart. T: elements.
#include "cache.cuh"
#include "rope.cuh"

constexpr int ALL = HEADS + 2 * KV_HEADS;

extern "C" __global__ void __launch_bounds__(WARPS * 32) rope_append(
    const T* qkv, C* keys, C* values, const int* start,
    TABLES_PARAMETERS PAGES_PARAMETER SCALES_PARAMETERS T* y, int tokens, int capacity) {
    let_next_start();
    wait_for_previous();
    const int first = blockIdx.x * WARPS * EACH + threadIdx.x / 32, lane = threadIdx.x % 32;
    const int batch = blockIdx.y / tokens, token = blockIdx.y % tokens;
    Head heads[EACH];
#pragma unroll
    for (int n = 0; n < EACH; ++n) {
        heads[n].read(qkv + ((u64)blockIdx.y * ALL + min(first + n * WARPS, ALL - 1)) * HEAD, lane);
    }
    const int position = start[batch] + token;
    const Angles angles(TABLES, position, lane);
#pragma unroll
    for (int n = 0; n < EACH; ++n) {
        const int index = first + n * WARPS;
        const bool is_query = index < HEADS, is_key = !is_query && index < HEADS + KV_HEADS;
        if (index >= ALL || (!is_query && position >= capacity)) continue;
        if (is_query || is_key) heads[n].turn(angles);
        if (is_query) {
            T* turned = y + ((u64)blockIdx.y * HEADS + index) * HEAD;
            heads[n].each(lane, [&](int d, float x) { turned[d] = narrow<T>(x); });
            continue;
        }
        const int kv_head = (index - HEADS) % KV_HEADS;
        const Cache cache = cache_of(TABLE, batch, kv_head, KV_HEADS, capacity);
        C* cached = (is_key ? keys : values) + cache.row(position) * HEAD;
#if QUANTIZED
        const float scale = (is_key ? key_scale : value_scale)[kv_head];
#else
        const float scale = 1;
#endif
        heads[n].each(lane, [&](int d, float x) { cached[d] = appended(x, scale); });
    }
}
