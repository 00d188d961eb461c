// Attention of new tokens over a cache, on the plain units: for f32, and for head sizes that the tensor cores' kernel does
// not take. One warp a query head of a token, one lane every 32nd element.
#include "cache.cuh"
#include "quantized.cuh"

constexpr int EACH = (HEAD + 31) / 32;

extern "C" __global__ void __launch_bounds__(WARPS * 32) plain_prefill_attention(
    const T* q, const C* keys, const C* values, const int* start, const int* lengths,
    PAGES_PARAMETER SLOPES_PARAMETER SCALES_PARAMETERS T* y, int tokens, int capacity, float scale, float softcap) {
    let_next_start();
    wait_for_previous();
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, head = blockIdx.x, batch = blockIdx.y;
    const int token = blockIdx.z * WARPS + warp, kv_head = head / (HEADS / KV_HEADS);
    if (token >= tokens) return;
    const u64 at = (((u64)batch * tokens + token) * HEADS + head) * HEAD;
    const int position = start[batch] + token, first = WINDOW ? max(0, position - WINDOW + 1) : 0;
    const int end = token < lengths[batch] ? position + 1 : first;   // a token that is none sees no key
    const Cache cache = cache_of(TABLE, batch, kv_head, KV_HEADS, capacity);
    float restored = 1.0f;
#if QUANTIZED
    scale *= key_scale[kv_head];
    restored = value_scale[kv_head];
#endif
    float query[EACH], sum[EACH] = {};
    RunningSoftmax softmax;
#pragma unroll
    for (int i = 0; i < EACH; ++i) query[i] = lane + 32 * i < HEAD ? wide(q[at + lane + 32 * i]) : 0.0f;
    for (int key = first; key < end; ++key) {
        const u64 row = cache.row(key) * HEAD;
        float s = 0;
#pragma unroll
        for (int i = 0; i < EACH; ++i) s += lane + 32 * i < HEAD ? query[i] * read(keys + row + lane + 32 * i) : 0.0f;
        s = warp_sum(s) * scale;
#if SOFTCAP
        s = softcap * tanhf(s / softcap);
#endif
#if SLOPES
        s += slopes[head] * (key - position);
#endif
        softmax.meet(s);
#pragma unroll
        for (int i = 0; i < EACH; ++i) {
            if (lane + 32 * i < HEAD) sum[i] = sum[i] * softmax.less + softmax.share * read(values + row + lane + 32 * i);
        }
    }
#pragma unroll
    for (int i = 0; i < EACH; ++i) {
        if (lane + 32 * i < HEAD) y[at + lane + 32 * i] = narrow<T>(first < end ? sum[i] / softmax.total * restored : 0.0f);
    }
}
