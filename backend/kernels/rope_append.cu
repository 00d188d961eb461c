// From the heads of q, k and v of S new tokens: q turned, to y; k turned and v into the caches, each sequence from its
// own position on. One warp a head of a token. T: elements.
#include "cache.cuh"
#include "rope.cuh"

extern "C" __global__ void __launch_bounds__(WARPS * 32) rope_append(
    const T* qkv, C* keys, C* values, const int* start,
    TABLES_PARAMETERS PAGES_PARAMETER SCALES_PARAMETERS T* y, int tokens, int capacity) {
    let_next_start();
    wait_for_previous();
    const int index = blockIdx.x * WARPS + threadIdx.x / 32, lane = threadIdx.x % 32;
    const int batch = blockIdx.y / tokens, token = blockIdx.y % tokens;
    if (index >= HEADS + 2 * KV_HEADS) return;
    Head head;
    head.read(qkv + ((u64)blockIdx.y * (HEADS + 2 * KV_HEADS) + index) * HEAD, lane);
    const int position = start[batch] + token;
    const bool is_query = index < HEADS, is_key = !is_query && index < HEADS + KV_HEADS;
    if (!is_query && position >= capacity) return;
    if (is_query || is_key) head.turn(Angles(TABLES, position, lane));
    if (is_query) {
        T* turned = y + ((u64)blockIdx.y * HEADS + index) * HEAD;
        head.each(lane, [&](int d, float x) { turned[d] = narrow<T>(x); });
        return;
    }
    const int kv_head = (index - HEADS) % KV_HEADS;
    const Cache cache = cache_of(TABLE, batch, kv_head, KV_HEADS, capacity);
    C* cached = (is_key ? keys : values) + cache.row(position) * HEAD;
#if QUANTIZED
    const float scale = (is_key ? key_scale : value_scale)[kv_head];
#else
    const float scale = 1;
#endif
    head.each(lane, [&](int d, float x) { cached[d] = appended(x, scale); });
}
