// Heads of new tokens, each in the registers of a warp: turned by their position, and rounded as a cache holds them.
// HALF: pairs that are turned, 0 for none; a pair is elements 2i and 2i + 1 where INTERLEAVED, else i and i + HALF.
#pragma once
#include "quantized.cuh"

constexpr int PAIRS = (HALF + 31) / 32, OTHERS = (HEAD - 2 * HALF + 31) / 32;   // of a lane

#if HALF
#define TABLES_PARAMETERS const float *cosines, const float *sines,
#define TABLES cosines, sines
#else
#define TABLES_PARAMETERS
#define TABLES nullptr, nullptr
#endif

// The cosines and sines of a position, in T's precision: those of the lane's pairs.
struct Angles {
    float c[PAIRS + 1], s[PAIRS + 1];   // one more, as an array has one at least

    __device__ __forceinline__ Angles(const float* cosines, const float* sines, int position, int lane) {
#pragma unroll
        for (int n = 0; n < PAIRS; ++n) {
            const u64 at = (u64)position * HALF + min(lane + 32 * n, HALF - 1);
            c[n] = rounded<T>(cosines[at]), s[n] = rounded<T>(sines[at]);
        }
    }
};

// The lane's elements of a head: of pairs both, and those that no pair has.
struct Head {
    float first[PAIRS + 1], second[PAIRS + 1], other[OTHERS + 1];

    __device__ __forceinline__ void read(const T* from, int lane) {
#pragma unroll
        for (int n = 0; n < PAIRS; ++n) {
            const int i = min(lane + 32 * n, HALF - 1);
            first[n] = wide(from[INTERLEAVED ? 2 * i : i]), second[n] = wide(from[INTERLEAVED ? 2 * i + 1 : i + HALF]);
        }
#pragma unroll
        for (int n = 0; n < OTHERS; ++n) other[n] = wide(from[min(2 * HALF + lane + 32 * n, HEAD - 1)]);
    }

    __device__ __forceinline__ void turn(const Angles& by) {
#pragma unroll
        for (int n = 0; n < PAIRS; ++n) {
            const float x = first[n], z = second[n];
            first[n] = x * by.c[n] - z * by.s[n], second[n] = z * by.c[n] + x * by.s[n];
        }
    }

    // put(d, x) for each of the lane's elements.
    template <class Put> __device__ __forceinline__ void each(int lane, Put put) const {
#pragma unroll
        for (int n = 0; n < PAIRS; ++n) {
            const int i = lane + 32 * n;
            if (i >= HALF) continue;
            put(INTERLEAVED ? 2 * i : i, first[n]);
            put(INTERLEAVED ? 2 * i + 1 : i + HALF, second[n]);
        }
#pragma unroll
        for (int n = 0; n < OTHERS; ++n) {
            const int d = 2 * HALF + lane + 32 * n;
            if (d < HEAD) put(d, other[n]);
        }
    }
};

// An element of a new key or value as the cache holds it: as T, then in units of a scale.
__device__ __forceinline__ C appended(float x, float scale) {
#if QUANTIZED
    return stored(rounded<T>(x) / scale);
#else
    return narrow<T>(x);
#endif
}
