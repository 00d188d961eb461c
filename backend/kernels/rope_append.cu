// From the heads of q, k and v of S new tokens: q turned, to y; k turned and v into the caches, each sequence from its
// own position on. One warp a head of a token. T: elements; HALF: pairs that are turned; 0 for none.
#include "cache.cuh"
#include "quantized.cuh"

extern "C" __global__ void __launch_bounds__(WARPS * 32) rope_append(
    const T* qkv, C* keys, C* values, const int* start,
#if HALF
    const float* cosines, const float* sines,
#endif
    PAGES_PARAMETER SCALES_PARAMETERS T* y, int tokens, int capacity) {
    let_next_start();
    wait_for_previous();
    const int head = blockIdx.x * WARPS + threadIdx.x / 32, lane = threadIdx.x % 32;
    const int batch = blockIdx.y / tokens, token = blockIdx.y % tokens;
    if (head >= HEADS + 2 * KV_HEADS) return;
    const int position = start[batch] + token;
    const T* from = qkv + ((u64)blockIdx.y * (HEADS + 2 * KV_HEADS) + head) * HEAD;
    const bool is_query = head < HEADS, is_key = !is_query && head < HEADS + KV_HEADS;
    const int kv_head = is_query ? 0 : (head - HEADS) % KV_HEADS;
    if (!is_query && position >= capacity) return;
    const Cache cache = cache_of(TABLE, batch, kv_head, KV_HEADS, capacity);
    T* turned = y + ((u64)blockIdx.y * HEADS + head) * HEAD;
    C* cached = is_query ? nullptr : (is_key ? keys : values) + cache.row(position) * HEAD;
#if QUANTIZED
    const float by = is_query ? 1.0f : (is_key ? key_scale : value_scale)[kv_head];
#endif
    const auto put = [&](int d, float x) {
        if (is_query) turned[d] = narrow<T>(x);
#if QUANTIZED
        else cached[d] = stored(rounded<T>(x) / by);
#else
        else cached[d] = narrow<T>(x);
#endif
    };
    int rest = 0;
#if HALF
    if (is_query || is_key) {
        rest = 2 * HALF;
        for (int i = lane; i < HALF; i += 32) {
            const float c = rounded<T>(cosines[(u64)position * HALF + i]), s = rounded<T>(sines[(u64)position * HALF + i]);
            const int a = INTERLEAVED ? 2 * i : i, b = INTERLEAVED ? 2 * i + 1 : i + HALF;
            const float x = wide(from[a]), z = wide(from[b]);
            put(a, x * c - z * s);
            put(b, z * c + x * s);
        }
    }
#endif
    for (int d = rest + lane; d < HEAD; d += 32) put(d, wide(from[d]));
}
