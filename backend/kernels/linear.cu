// y = x @ weight.T for few rows of x, on tensor cores: the weight is the operand of 16 rows, x that of 8 columns.
//
// A block makes 16 * TILES rows of the weight for 8 * COLUMNS rows of x; its WARPS warps share the sum over K and add
// their parts in shared memory, always in the same order. Weights go from global memory straight to registers, DEPTH
// loads ahead, the first ones before the launches before this one are done; x is INPUTS loads ahead, a divisor of DEPTH.
// BLOCKS: that a multiprocessor must hold.
//
// T: elements of x and y. BITS: of a weight; 16 is T, 8 and 4 are integers, of 4 the low half of a byte first; with FLOATS,
// 8 are f8e4m3. GROUP: how many elements of a row share a scale, a multiple of 16 bytes of weights; INNER is all of them.
// Scales are multiplied with sums where all that a warp loads of a row shares one, else with each weight, as T. ZEROS: each
// scale has a zero, which is subtracted from its integers.
//
// GATED: rows r and ROWS / 2 + r of the weight make element r of y: activation(first) * second.
//
// SQUARES: before bias and activation, what the products make is divided by sqrt(mean square + eps) of a row of which sums
// of 16 squares are given. They come to shared memory during the products, and a warp adds those of a row before its last.
// FOR_NORM: beside y it makes z = y * gain, and the sums of 16 squares of y.
#include "activation.cuh"
#include "mma.cuh"
#include "tiles.cuh"

constexpr int EACH = 128 / BITS;                 // weights in 16 bytes
constexpr int CHUNK = 4 * EACH;                  // along K, of one load of a warp
constexpr int CHUNKS = INNER / CHUNK;
constexpr int STEPS = (CHUNKS + WARPS - 1) / WARPS;
constexpr int OUTER = GATED ? ROWS / 2 : ROWS;   // elements of a row of y
constexpr int WORDS = EACH / 8;                  // 16 bytes of x that belong to 16 bytes of weights
constexpr bool SCALES_SUMS = GROUP < INNER && GROUP % CHUNK == 0;   // of each load; those of a row are scaled at the end
constexpr bool SCALES_WEIGHTS = GROUP % CHUNK != 0;

struct Weights {
    uint4 raw[TILES][2];
    T scale[TILES][2], zero[TILES][2];   // where there are some
};
struct Inputs {
    uint4 raw[COLUMNS][WORDS];
};

// Both halves of words: a * b + c.
template <class E> __device__ __forceinline__ u32 multiplied(u32 a, u32 b, u32 c);
template <> __device__ __forceinline__ u32 multiplied<bf16>(u32 a, u32 b, u32 c) {
    u32 y;
    asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(y) : "r"(a), "r"(b), "r"(c));
    return y;
}
template <> __device__ __forceinline__ u32 multiplied<f16>(u32 a, u32 b, u32 c) {
    u32 y;
    asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(y) : "r"(a), "r"(b), "r"(c));
    return y;
}
constexpr u32 NOTHING = 0x80008000u;   // -0: what is added to it stays as it is
__device__ __forceinline__ u32 twice(T x) { return x.bits * 0x10001u; }

// Words of T that hold weights, in the order in which `spread` puts x. `less` is what is added to what the bits make.
template <class E> __device__ __forceinline__ u32 from_nibbles(u32 word, u32 less);
template <> __device__ __forceinline__ u32 from_nibbles<bf16>(u32 word, u32 less) {   // 0x4300 is 128, whose last bit is 1
    return multiplied<bf16>((word & 0x000f000fu) ^ 0x43084308u, 0x3f803f80u, less);   // * 1 - 136
}
template <> __device__ __forceinline__ u32 from_nibbles<f16>(u32 word, u32 less) {   // 0x6400 is 1024, whose last bit is 1
    u32 y = (word & 0x000f000fu) ^ 0x64086408u;
    asm("add.rn.f16x2 %0, %0, %1;" : "+r"(y) : "r"(less));
    return y;
}
// The same of bytes, two of a word: the lower ones for i = 0.
template <class E> __device__ __forceinline__ u32 from_bytes(u32 word, int i, u32 less);
template <> __device__ __forceinline__ u32 from_bytes<bf16>(u32 word, int i, u32 less) {
    const u32 both = __byte_perm(word, 0x43434343u, i ? 0x7372 : 0x7170);
    const u32 last = both & 0xff7fff7fu;   // 128 + the last 7 bits
    const u32 base = both & 0xff80ff80u;   // 128, or 256 for negative ones
    const u32 y = multiplied<bf16>(base, 0xbf80bf80u, last);
    return ZEROS ? multiplied<bf16>(y, 0x3f803f80u, less) : y;
}
template <> __device__ __forceinline__ u32 from_bytes<f16>(u32 word, int i, u32 less) {   // 1024 + (weight + 128), less 1152
    u32 y = __byte_perm(word ^ 0x80808080u, 0x64646464u, i ? 0x7372 : 0x7170);
    asm("add.rn.f16x2 %0, %0, %1;" : "+r"(y) : "r"(less));
    return y;
}
// The same of f8e4m3: exponent and mantissa, 7 bits, into those of T, then 2^120 or 2^8.
template <class E> __device__ __forceinline__ u32 from_floats(u32 word, int i);
template <> __device__ __forceinline__ u32 from_floats<bf16>(u32 word, int i) {
    const u32 both = __byte_perm(word, 0, i ? 0x3424 : 0x1404);
    return multiplied<bf16>((both & 0x80008000u) | (both >> 4 & 0x07f007f0u), 0x7b807b80u, NOTHING);
}
template <> __device__ __forceinline__ u32 from_floats<f16>(u32 word, int i) {
    const u32 both = __byte_perm(word, 0, i ? 0x3424 : 0x1404);
    return multiplied<f16>((both & 0x80008000u) | (both >> 1 & 0x3f803f80u), 0x5c005c00u, NOTHING);
}
// -(136 + zero), or what else of T turns what the bits of integers make into integers - zero.
template <class E> __device__ __forceinline__ u32 less_zero(u32 zero);
template <> __device__ __forceinline__ u32 less_zero<bf16>(u32 zero) {
    const u32 made = BITS == 4 ? 0xc308c308u : NOTHING;
    return ZEROS ? multiplied<bf16>(zero, 0xbf80bf80u, made) : made;
}
template <> __device__ __forceinline__ u32 less_zero<f16>(u32 zero) {
    const u32 made = BITS == 4 ? 0xe408e408u : 0xe480e480u;
    return ZEROS ? multiplied<f16>(zero, 0xbc00bc00u, made) : made;
}

// The i-th word of two weights of T in 16 bytes.
__device__ __forceinline__ u32 weights(const uint4& raw, int i, u32 less, u32 scale) {
    if (BITS == 16) return word_of(raw, i);
    const u32 y = BITS == 4 ? from_nibbles<T>(word_of(raw, i / 4) >> (i % 4 * 4), less)
                  : FLOATS  ? from_floats<T>(word_of(raw, i / 2), i % 2)
                            : from_bytes<T>(word_of(raw, i / 2), i % 2, less);
    return SCALES_WEIGHTS ? multiplied<T>(y, scale, NOTHING) : y;
}
// The i-th word of two elements of x: for 4 bits those that stand 4 apart, as their weights do in a word.
__device__ __forceinline__ u32 spread(const uint4 (&x)[WORDS], int i) {
    if (BITS != 4) return word_of(x[i / 4], i % 4);
    const uint4& eight = x[i / 4];
    const int e = i % 4;
    return __byte_perm(word_of(eight, e / 2), word_of(eight, 2 + e / 2), e % 2 ? 0x7632 : 0x5410);
}

extern "C" __global__ void __launch_bounds__(WARPS * 32, BLOCKS) skinny_linear(
    const T* x, const u8* weight,
#if BITS < 16
    const T* scales,
#endif
#if BIAS
    const T* bias,
#endif
#if RESIDUAL
    const T* residual,
#endif
#if SQUARES
    const float* squares,
#endif
#if ZEROS
    const T* zeros,
#endif
#if FOR_NORM
    const T* gain,
#endif
    T* y,
#if FOR_NORM
    T* z, float* squares,
#endif
    int count, float softcap
#if SQUARES
    , float eps
#endif
) {
    let_next_start();
    __shared__ float part[WARPS][TILES * COLUMNS][4][32];
#if SQUARES
    __shared__ float4 given[8 * COLUMNS][INNER / 64];   // of a row: squares, then its factor in place of the first
#endif
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    const int first = blockIdx.x * (GATED ? 16 : 16 * TILES), column = blockIdx.y * 8 * COLUMNS;
    const auto row_of = [&](int tile, int row) {
        const int r = min(first + (GATED ? 0 : tile * 16) + row, OUTER - 1);   // past the end: the last once more
        return GATED && tile ? OUTER + r : r;
    };
    const u8* rows[TILES][2];
#pragma unroll
    for (int m = 0; m < TILES; ++m) {
#pragma unroll
        for (int h = 0; h < 2; ++h) rows[m][h] = weight + (u64)row_of(m, g + 8 * h) * (INNER / 8 * BITS) + t * 16;
    }
    Weights ahead[DEPTH];
    Inputs inputs[INPUTS];
    const auto load_weights = [&](Weights& w, int step) {
        const int chunk = step * WARPS + warp;
        if (chunk >= CHUNKS) return;
#pragma unroll
        for (int m = 0; m < TILES; ++m) {
#pragma unroll
            for (int h = 0; h < 2; ++h) {
                w.raw[m][h] = stream(rows[m][h] + chunk * 64);
#if GROUP < INNER || ZEROS
                const int group = SCALES_WEIGHTS ? (chunk * CHUNK + t * EACH) / GROUP : chunk * CHUNK / GROUP;
                const u64 at = (u64)row_of(m, g + 8 * h) * (INNER / GROUP) + group;
#endif
#if GROUP < INNER
                w.scale[m][h] = scales[at];
#endif
#if ZEROS
                w.zero[m][h] = zeros[at];
#endif
            }
        }
    };
    const auto load_inputs = [&](Inputs& in, int step) {
        const int chunk = step * WARPS + warp;
        if (chunk >= CHUNKS) return;
#pragma unroll
        for (int n = 0; n < COLUMNS; ++n) {
            const int r = column + n * 8 + g;
            const uint4* from = reinterpret_cast<const uint4*>(x + (u64)r * INNER + chunk * CHUNK + t * EACH);
#pragma unroll
            for (int w = 0; w < WORDS; ++w) in.raw[n][w] = r < count ? from[w] : make_uint4(0, 0, 0, 0);
        }
    };
    float sum[TILES][COLUMNS][4] = {};
    const auto multiply = [&](const Weights& w, const Inputs& in, int step) {
        if (step * WARPS + warp >= CHUNKS) return;
#pragma unroll
        for (int m = 0; m < TILES; ++m) {
            float group[COLUMNS][4] = {};
            u32 less[2], scale[2];
#pragma unroll
            for (int h = 0; h < 2; ++h) {
                less[h] = less_zero<T>(ZEROS ? twice(w.zero[m][h]) : 0);
                scale[h] = SCALES_WEIGHTS ? twice(w.scale[m][h]) : 0;
            }
            const auto of = [&](int h, int i) { return weights(w.raw[m][h], i, less[h], scale[h]); };
#pragma unroll
            for (int i = 0; i < EACH / 2; i += 2) {
                const u32 a0 = of(0, i), a1 = of(1, i), a2 = of(0, i + 1), a3 = of(1, i + 1);
#pragma unroll
                for (int n = 0; n < COLUMNS; ++n) {
                    mma<T>(SCALES_SUMS ? group[n] : sum[m][n], a0, a1, a2, a3, spread(in.raw[n], i), spread(in.raw[n], i + 1));
                }
            }
            if (!SCALES_SUMS) continue;
#pragma unroll
            for (int n = 0; n < COLUMNS; ++n) {
#pragma unroll
                for (int i = 0; i < 4; ++i) sum[m][n][i] += wide(w.scale[m][i / 2]) * group[n][i];
            }
        }
    };

#pragma unroll
    for (int d = 0; d < DEPTH; ++d) load_weights(ahead[d], d);
#if FOR_NORM
    if (threadIdx.x == 0) bring(gain + first);
#endif
    wait_for_previous();
#pragma unroll
    for (int d = 0; d < INPUTS; ++d) load_inputs(inputs[d], d);
#if SQUARES
    for (int c = warp; c < 8 * COLUMNS && column + c < count; c += WARPS) {
        const float* from = squares + (u64)(column + c) * (INNER / 16);
#pragma unroll
        for (int i = 0; i < INNER / 64; i += 32) {
            if (i + lane < INNER / 64) copy_async(shared_address(&given[c][i + lane]), from + 4 * (i + lane));
        }
    }
#endif
    const auto advance = [&](int base) {
#pragma unroll
        for (int d = 0; d < DEPTH; ++d) {
            multiply(ahead[d], inputs[d % INPUTS], base + d);
            load_weights(ahead[d], base + d + DEPTH);
            load_inputs(inputs[d % INPUTS], base + d + INPUTS);
        }
    };
    constexpr int UNTIL = SQUARES ? (STEPS - 1) / DEPTH * DEPTH : STEPS;
#pragma unroll 1
    for (int base = 0; base < UNTIL; base += DEPTH) advance(base);
#if SQUARES
    wait_for_copies();   // while the last weights are under way
    for (int c = warp; c < 8 * COLUMNS && column + c < count; c += WARPS) {
        float s = 0;
#pragma unroll
        for (int i = 0; i < INNER / 64; i += 32) {   // those that this lane has copied
            if (i + lane >= INNER / 64) continue;
            const float4 four = given[c][i + lane];
            s += (four.x + four.y) + (four.z + four.w);
        }
        s = warp_sum(s);
        if (lane == 0) given[c][0].x = 1.0f / sqrtf(s / INNER + eps);
    }
    advance(UNTIL);
#endif

#pragma unroll
    for (int m = 0; m < TILES; ++m) {
#pragma unroll
        for (int n = 0; n < COLUMNS; ++n) {
#pragma unroll
            for (int i = 0; i < 4; ++i) part[warp][m * COLUMNS + n][i][lane] = sum[m][n][i];
        }
    }
    __syncthreads();
    const auto total = [&](int m, int n, int row, int c) {   // row 0..15 of the weight, column 0..7 of x
        float s = 0;
#pragma unroll
        for (int w = 0; w < WARPS; ++w) s += part[w][m * COLUMNS + n][row / 8 * 2 + c % 2][row % 8 * 4 + c / 2];
#if BITS < 16 && GROUP == INNER
        s *= wide(scales[row_of(m, row)]);
#endif
#if SQUARES
        s *= given[n * 8 + c][0].x;
#endif
#if BIAS
        s += wide(bias[row_of(m, row)]);
#endif
        return s;
    };
    constexpr int MADE = (GATED ? 1 : TILES) * COLUMNS * 128;
    for (int e = threadIdx.x; e < MADE; e += WARPS * 32) {
        const int row = e % 16, m = GATED ? 0 : e / 16 % TILES, c = e / 16 / (GATED ? 1 : TILES);
        const int r = first + m * 16 + row, at = column + c;
        if (r >= OUTER || at >= count) continue;
        float s = total(m, c / 8, row, c % 8);
        if (GATED) s = activated<ACTIVATION>(s) * total(TILES - 1, c / 8, row, c % 8);
        if (SOFTCAP) s = softcap * tanhf(s / softcap);
#if RESIDUAL
        s += wide(residual[(u64)at * OUTER + r]);
#endif
        const T made = narrow<T>(s);
        y[(u64)at * OUTER + r] = made;
#if FOR_NORM
        z[(u64)at * OUTER + r] = narrow<T>(wide(made) * wide(gain[r]));
        const float square = half_warp_sum(wide(made) * wide(made));   // of the 16 neighbours in y
        if (row == 0) squares[(u64)at * (OUTER / 16) + r / 16] = square;
#endif
    }
}
