// Attention as the op says, [batch, head, token, size], on the plain units: any float, any head sizes up to 256, with or
// without a mask. One warp a query head of a token, one lane every 32nd element.
#include "common.cuh"

constexpr int EACH = (HEAD + 31) / 32, VALUES = (VALUE_HEAD + 31) / 32;

extern "C" __global__ void __launch_bounds__(WARPS * 32) plain_attention(
    const T* q, const T* keys, const T* values,
#if LENGTHS
    const int* lengths,
#endif
#if MASKED
    const u8* mask,
#endif
#if SLOPES
    const float* slopes,
#endif
    T* y, long long rows, int tokens, int capacity, float scale, float softcap SIZES) {
    let_next_start();
    wait_for_previous();
    const u64 row = (u64)blockIdx.x * WARPS + threadIdx.x / 32;
    const int lane = threadIdx.x % 32;
    if (row >= (u64)rows) return;
    const int token = row % tokens, head = row / tokens % HEADS, batch = row / tokens / HEADS;
#if LENGTHS
    const int all = lengths[batch];
#else
    const int all = capacity;
#endif
    const int place = all - tokens + token, length = CAUSAL ? min(all, place + 1) : all;
    const int first = WINDOW ? max(0, place - WINDOW + 1) : 0, kv_head = head / (HEADS / KV_HEADS);
    const u64 base = ((u64)batch * KV_HEADS + kv_head) * capacity;
    float mine[EACH], sum[VALUES] = {};
    RunningSoftmax softmax;
#pragma unroll
    for (int i = 0; i < EACH; ++i) mine[i] = lane + 32 * i < HEAD ? wide(q[row * HEAD + lane + 32 * i]) : 0.0f;
    for (int key = first; key < length; ++key) {
#if MASKED
        if (!mask[MASK_AT]) continue;
#endif
        const u64 at = base + key;
        float s = 0;
#pragma unroll
        for (int i = 0; i < EACH; ++i) {
            s += lane + 32 * i < HEAD ? mine[i] * wide(keys[at * HEAD + lane + 32 * i]) : 0.0f;
        }
        s = warp_sum(s) * scale;
#if SOFTCAP
        s = softcap * tanhf(s / softcap);
#endif
#if SLOPES
        s += slopes[head] * (key - place);
#endif
        softmax.meet(s);
#pragma unroll
        for (int i = 0; i < VALUES; ++i) {
            const int d = lane + 32 * i;
            if (d < VALUE_HEAD) sum[i] = sum[i] * softmax.less + softmax.share * wide(values[at * VALUE_HEAD + d]);
        }
    }
#pragma unroll
    for (int i = 0; i < VALUES; ++i) {
        const int d = lane + 32 * i;
        if (d < VALUE_HEAD) y[row * VALUE_HEAD + d] = narrow<T>(softmax.total > 0 ? sum[i] / softmax.total : 0.0f);
    }
}
