// Attention of one new token a sequence over a cache, on the plain units: for f32, and for head sizes that the tensor
// cores' kernel does not take. One block a query head, one warp every WARPS-th key, one lane every 32nd element.
#include "cache.cuh"
#include "quantized.cuh"

constexpr int EACH = (HEAD + 31) / 32;

extern "C" __global__ void __launch_bounds__(WARPS * 32) plain_attention(
    const T* q, const C* keys, const C* values, const int* lengths,
    PAGES_PARAMETER SLOPES_PARAMETER SCALES_PARAMETERS T* y, int capacity, float scale, float softcap) {
    let_next_start();
    wait_for_previous();
    __shared__ float sums[WARPS][HEAD], most_of[WARPS], total_of[WARPS];
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, head = blockIdx.x, batch = blockIdx.y;
    const int kv_head = head / (HEADS / KV_HEADS), length = lengths[batch], first = WINDOW ? max(0, length - WINDOW) : 0;
    const Cache cache = cache_of(TABLE, batch, kv_head, KV_HEADS, capacity);
    const T* query = q + ((u64)batch * HEADS + head) * HEAD;
    float restored = 1.0f;
#if QUANTIZED
    scale *= key_scale[kv_head];
    restored = value_scale[kv_head];
#endif
    float mine[EACH], sum[EACH] = {};
    RunningSoftmax softmax;
#pragma unroll
    for (int i = 0; i < EACH; ++i) mine[i] = lane + 32 * i < HEAD ? wide(query[lane + 32 * i]) : 0.0f;
    for (int key = first + warp; key < length; key += WARPS) {
        const u64 row = cache.row(key) * HEAD;
        float s = 0;
#pragma unroll
        for (int i = 0; i < EACH; ++i) s += lane + 32 * i < HEAD ? mine[i] * read(keys + row + lane + 32 * i) : 0.0f;
        s = warp_sum(s) * scale;
#if SOFTCAP
        s = softcap * tanhf(s / softcap);
#endif
#if SLOPES
        s += slopes[head] * (key - (length - 1));
#endif
        softmax.meet(s);
#pragma unroll
        for (int i = 0; i < EACH; ++i) {
            if (lane + 32 * i < HEAD) sum[i] = sum[i] * softmax.less + softmax.share * read(values + row + lane + 32 * i);
        }
    }
    if (lane == 0) most_of[warp] = softmax.most, total_of[warp] = softmax.total;
#pragma unroll
    for (int i = 0; i < EACH; ++i) {
        if (lane + 32 * i < HEAD) sums[warp][lane + 32 * i] = sum[i];
    }
    __syncthreads();
    float most = -INFINITY, total = 0;
#pragma unroll
    for (int w = 0; w < WARPS; ++w) most = fmaxf(most, most_of[w]);
#pragma unroll
    for (int w = 0; w < WARPS; ++w) total += most_of[w] == -INFINITY ? 0.0f : total_of[w] * expf(most_of[w] - most);
    for (int d = threadIdx.x; d < HEAD; d += WARPS * 32) {
        float x = 0;
#pragma unroll
        for (int w = 0; w < WARPS; ++w) x += most_of[w] == -INFINITY ? 0.0f : sums[w][d] * expf(most_of[w] - most);
        y[((u64)batch * HEADS + head) * HEAD + d] = narrow<T>(length > 0 ? x / total * restored : 0.0f);
    }
}
