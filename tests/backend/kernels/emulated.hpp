// CUDA C++ on the CPU, for kernels of one block at a time: threads are fibers, which take turns and change only where they
// wait for each other; what PTX an `asm` holds is a function here. Slow, and no memory model: it shows what is computed,
// not whether a barrier is missing.
#include <setjmp.h>
#include <ucontext.h>

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <utility>

#define __device__
#define __global__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __shared__ static

struct uint2 { uint32_t x, y; };
struct alignas(16) uint4 { uint32_t x, y, z, w; };
struct alignas(8) float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
struct dim3 { unsigned x, y, z; };
inline uint2 make_uint2(uint32_t x, uint32_t y) { return {x, y}; }
inline uint4 make_uint4(uint32_t x, uint32_t y, uint32_t z, uint32_t w) { return {x, y, z, w}; }
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

// --- fibers

static constexpr size_t STACK = 256 << 10, FIBERS = 1024;   // bytes of a thread, threads of a block
struct Fiber {
    ucontext_t start;
    jmp_buf place;   // where it goes on; jumps leave signals alone, which costs less than a change of contexts
    bool started = false;
    void* stack = nullptr;   // not initialised: it takes the memory that is used
    bool done = false;
};
static bool goes_on;   // something was waited for, and happened
struct Barrier {
    int arrived = 0, alive = 0;
    unsigned generation = 0;
    void release() {
        if (alive && arrived == alive) arrived = 0, ++generation, goes_on = true;
    }
};
static Fiber fibers[FIBERS];
static jmp_buf scheduler;
static int current;
static bool backwards;   // threads and blocks take turns from the last on
static dim3 threadIdx, blockIdx, blockDim, gridDim;
static Barrier block_barrier, warp_barrier[32];
static void (*body)(void*);
static void* body_argument;

static void let_others_run() {
    if (!_setjmp(fibers[current].place)) _longjmp(scheduler, 1);
}
static void run(Fiber& fiber) {
    if (_setjmp(scheduler)) return;
    if (fiber.started) _longjmp(fiber.place, 1);
    fiber.started = true;
    setcontext(&fiber.start);
}
static void wait_at(Barrier& barrier) {
    const unsigned seen = barrier.generation;
    ++barrier.arrived;
    barrier.release();
    while (barrier.generation == seen) let_others_run();
}
static void __syncthreads() { wait_at(block_barrier); }
static void together() { wait_at(warp_barrier[threadIdx.x / 32]); }
static void __syncwarp() { together(); }

// Copies of each thread that are under way: done no sooner than it waits for them.
struct Copy {
    char* to;
    const void* from;
};
struct Copies {
    Copy* all = nullptr;
    int count = 0, room = 0;
    void add(Copy copy) {
        if (count == room) all = (Copy*)realloc(all, (room = 2 * room + 8) * sizeof(Copy));
        all[count++] = copy;
    }
};
static Copies copies[FIBERS];
static void finish(Copies& some) {
    for (int i = 0; i < some.count; ++i) std::memcpy(some.all[i].to, some.all[i].from, 16);
    some.count = 0;
}
// What goes on by itself (emulated_async.hpp): how it starts with a block, and whether some of it could be finished.
static void (*start_async)(int threads) = [](int) {};
static bool (*finish_async)() = [] { return false; };

static void fiber_main() {
    body(body_argument);
    fibers[current].done = goes_on = true;
    for (Barrier* barrier : {&block_barrier, &warp_barrier[threadIdx.x / 32]}) --barrier->alive, barrier->release();
    _longjmp(scheduler, 1);
}

static void run_block() {
    const int count = blockDim.x;
    for (Copies& each : copies) each.count = 0;
    start_async(count);
    block_barrier = Barrier{};
    block_barrier.alive = count;
    for (int w = 0; w < 32; ++w) warp_barrier[w] = Barrier{}, warp_barrier[w].alive = w < count / 32 ? 32 : 0;
    for (int i = 0; i < count; ++i) {
        Fiber& fiber = fibers[i];
        fiber.done = fiber.started = false;
        if (!fiber.stack) fiber.stack = malloc(STACK);
        getcontext(&fiber.start);
        fiber.start.uc_stack.ss_sp = fiber.stack;
        fiber.start.uc_stack.ss_size = STACK;
        makecontext(&fiber.start, fiber_main, 0);
    }
    for (int left = count, idle = 0; left;) {
        left = 0, goes_on = false;
        for (int turn = 0; turn < count; ++turn) {
            const int i = backwards ? count - 1 - turn : turn;
            if (fibers[i].done) continue;
            ++left;
            current = i;
            threadIdx = {(unsigned)i, 0, 0};
            run(fibers[i]);
        }
        idle = goes_on ? 0 : idle + 1;
        if (idle == 2 && finish_async()) idle = 0;
        if (idle == 3) return;   // threads wait for each other
    }
}

// --- what a warp does together

template <class V> static V lane_value(V mine, int from) {
    static unsigned char slots[32][32][16];
    auto& warp = slots[threadIdx.x / 32];
    std::memcpy(warp[threadIdx.x % 32], &mine, sizeof(V));
    together();
    V other;
    std::memcpy(&other, warp[from], sizeof(V));
    together();
    return other;
}
template <class V> static V __shfl_xor_sync(unsigned, V x, int step) { return lane_value(x, threadIdx.x % 32 ^ step); }
template <class V> static V __shfl_sync(unsigned, V x, int lane) { return lane_value(x, lane); }
template <class V> static V __shfl_up_sync(unsigned, V x, int step) {
    const int lane = threadIdx.x % 32;
    return lane_value(x, lane >= step ? lane - step : lane);
}
static unsigned __ballot_sync(unsigned, bool yes) {
    static bool all[32][32];
    bool* warp = all[threadIdx.x / 32];
    warp[threadIdx.x % 32] = yes;
    together();
    unsigned votes = 0;
    for (int i = 0; i < 32; ++i) votes |= (unsigned)warp[i] << i;
    together();
    return votes;
}
static bool __any_sync(unsigned mask, bool yes) { return __ballot_sync(mask, yes) != 0; }

// --- functions of CUDA

template <class To, class From> static To bits_of(From x) {
    To y;
    std::memcpy(&y, &x, sizeof(To));
    return y;
}
static unsigned __float_as_uint(float x) { return bits_of<unsigned>(x); }
static float __uint_as_float(unsigned x) { return bits_of<float>(x); }
static float __int_as_float(int x) { return bits_of<float>(x); }
static unsigned __byte_perm(unsigned a, unsigned b, unsigned select) {
    const uint64_t both = (uint64_t)b << 32 | a;
    unsigned y = 0;
    for (int i = 0; i < 4; ++i) y |= (unsigned)(both >> (select >> 4 * i & 7) * 8 & 255) << 8 * i;
    return y;
}
static int __popc(unsigned x) { return __builtin_popcount(x); }
#define __expf expf
static uint64_t __umul64hi(uint64_t a, uint64_t b) { return (unsigned __int128)a * b >> 64; }
static int min(int a, int b) { return a < b ? a : b; }
static int max(int a, int b) { return a > b ? a : b; }
static void __threadfence() {}
static void prefetch_global_L2(const void*) {}
template <class V> static V __ldcg(const V* p) { return *p; }
template <class V> static void __stcg(V* p, V x) { *p = x; }
template <class V> static V atomicAdd(V* p, V x) { V old = *p; *p += x; return old; }
static unsigned atomicAdd(unsigned* p, int x) { return atomicAdd(p, (unsigned)x); }
static unsigned atomicInc(unsigned* p, unsigned most) {
    const unsigned old = *p;
    *p = old >= most ? 0 : old + 1;
    return old;
}
template <class V> static V atomicMin(V* p, V x) { V old = *p; *p = x < old ? x : old; return old; }

// --- PTX

static float from_half(unsigned short x) {
    _Float16 y = bits_of<_Float16>(x);
    return (float)y;
}
static unsigned short to_half(float x) { return bits_of<unsigned short>((_Float16)x); }
static float from_brain(unsigned short x) { return __uint_as_float((unsigned)x << 16); }
static unsigned short to_brain(float x) {
    if (x != x) return 0x7fff;
    unsigned bits = __float_as_uint(x);
    return (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}
static void cvt_f32_f16(float& y, unsigned short x) { y = from_half(x); }
static void cvt_rn_f16_f32(unsigned short& y, float x) { y = to_half(x); }
static void cvt_rn_bf16_f32(unsigned short& y, float x) { y = to_brain(x); }
static void cvt_rn_f16x2_f32(unsigned& y, float high, float low) { y = (unsigned)to_half(high) << 16 | to_half(low); }
static void cvt_rn_bf16x2_f32(unsigned& y, float high, float low) { y = (unsigned)to_brain(high) << 16 | to_brain(low); }
static void fma_rn_bf16x2(unsigned& y, unsigned a, unsigned b, unsigned c) {
    const auto half = [&](int s) { return to_brain(from_brain(a >> s) * from_brain(b >> s) + from_brain(c >> s)); };
    y = (unsigned)half(16) << 16 | half(0);
}
static void fma_rn_f16x2(unsigned& y, unsigned a, unsigned b, unsigned c) {
    const auto half = [&](int s) { return to_half(from_half(a >> s) * from_half(b >> s) + from_half(c >> s)); };
    y = (unsigned)half(16) << 16 | half(0);
}
static void add_rn_f16x2(unsigned& y, unsigned a, unsigned b) {
    const auto half = [&](int s) { return to_half(from_half(a >> s) + from_half(b >> s)); };
    y = (unsigned)half(16) << 16 | half(0);
}
template <class P> static void ld_4(unsigned& x, unsigned& y, unsigned& z, unsigned& w, P p) {
    const unsigned* from = reinterpret_cast<const unsigned*>(p);
    x = from[0], y = from[1], z = from[2], w = from[3];
}
template <class P> static void ld_global_nc_L1__no_allocate_L2__256B_v4_u32(unsigned& x, unsigned& y, unsigned& z, unsigned& w, P p) { ld_4(x, y, z, w, p); }
template <class P> static void ld_global_v4_u32(unsigned& x, unsigned& y, unsigned& z, unsigned& w, P p) { ld_4(x, y, z, w, p); }
template <class P> static void ld_global_v2_u32(unsigned& x, unsigned& y, P p) {
    const unsigned* from = reinterpret_cast<const unsigned*>(p);
    x = from[0], y = from[1];
}
template <class P> static void ld_global_u32(unsigned& x, P p) { x = *p; }
template <class V> static void atom_acq_rel_gpu_global_inc_u32(unsigned& old, V* p, unsigned last) {
    old = *p;
    *p = old >= last ? 0 : old + 1;
}
static void ex2_approx_ftz_f32(float& y, float x) { y = exp2f(x); }

// Addresses of shared memory, of 32 bits, count from here; dynamic shared memory begins 16 bytes further.
alignas(1024) static char shared_origin[(1 << 18) + 16];
static char* dynamic_shared() { return shared_origin + 16; }
static unsigned __cvta_generic_to_shared(const void* p) { return (unsigned)(static_cast<const char*>(p) - shared_origin); }
static char* shared_pointer(unsigned address) { return shared_origin + (int)address; }
static void cp_async_cg_shared_global(unsigned to, const void* from) {
    copies[threadIdx.x].add({shared_pointer(to), from});
}
static void cp_async_wait_all_() { finish(copies[threadIdx.x]); }

// Lane 8m + r gives the address of row r of matrix m; lane 4g + t gets elements 2t and 2t + 1 of row or column g.
template <bool Transposed> static void ldmatrix(unsigned* x, unsigned at) {
    static unsigned all[32][32];
    unsigned* rows = all[threadIdx.x / 32];
    const int lane = threadIdx.x % 32;
    rows[lane] = at;
    together();
    const auto element = [&](int m, int along) {
        const int row = Transposed ? along : lane / 4, column = Transposed ? lane / 4 : along;
        return (unsigned)reinterpret_cast<const unsigned short*>(shared_pointer(rows[8 * m + row]))[column];
    };
    for (int m = 0; m < 4; ++m) x[m] = element(m, lane % 4 * 2 + 1) << 16 | element(m, lane % 4 * 2);
    together();
}
#define LDMATRIX(NAME, TRANSPOSED)                                                              \
    static void NAME(unsigned& x0, unsigned& x1, unsigned& x2, unsigned& x3, unsigned at) {     \
        unsigned x[4];                                                                          \
        ldmatrix<TRANSPOSED>(x, at);                                                            \
        x0 = x[0], x1 = x[1], x2 = x[2], x3 = x[3];                                             \
    }
LDMATRIX(ldmatrix_sync_aligned_m8n8_x4_shared_b16, false)
LDMATRIX(ldmatrix_sync_aligned_m8n8_x4_trans_shared_b16, true)

// Lane 4g + t: rows g and g + 8 of A at k = 2t, 2t + 1 and 8 more, column g of B there, C at columns 2t, 2t + 1.
struct Fragments {
    unsigned a[4], b[2];
};
template <float (*Wide)(unsigned short)>
static void mma(float* c, const Fragments& mine) {
    static Fragments all[32][32];
    Fragments* warp = all[threadIdx.x / 32];
    const int lane = threadIdx.x % 32;
    warp[lane] = mine;
    together();
    for (int i = 0; i < 4; ++i) {
        const int row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
        for (int k = 0; k < 16; ++k) {
            const unsigned a = warp[row % 8 * 4 + k % 8 / 2].a[row / 8 + k / 8 * 2];
            const unsigned b = warp[column * 4 + k % 8 / 2].b[k / 8];
            c[i] += Wide(a >> k % 2 * 16) * Wide(b >> k % 2 * 16);
        }
    }
    together();
}
#define MMA(NAME, WIDE)                                                                                              \
    static void NAME(float& c0, float& c1, float& c2, float& c3, unsigned a0, unsigned a1, unsigned a2, unsigned a3, \
                     unsigned b0, unsigned b1, float, float, float, float) {                                         \
        float c[4] = {c0, c1, c2, c3};                                                                               \
        mma<WIDE>(c, Fragments{{a0, a1, a2, a3}, {b0, b1}});                                                         \
        c0 = c[0], c1 = c[1], c2 = c[2], c3 = c[3];                                                                  \
    }
MMA(mma_sync_aligned_m16n8k16_row_col_f32_bf16_bf16_f32, from_brain)
MMA(mma_sync_aligned_m16n8k16_row_col_f32_f16_f16_f32, from_half)

// --- launches

template <class... A, size_t... I> static void call(void (*kernel)(A...), void** arguments, std::index_sequence<I...>) {
    kernel(*static_cast<A*>(arguments[I])...);
}
template <class... A> static void launch(void (*kernel)(A...), const unsigned* grid, unsigned block, void** arguments) {
    struct Both { void (*kernel)(A...); void** arguments; } both{kernel, arguments};
    body_argument = &both;
    body = [](void* p) {
        const Both* both = static_cast<Both*>(p);
        call(both->kernel, both->arguments, std::index_sequence_for<A...>{});
    };
    gridDim = {grid[0], grid[1], grid[2]};
    blockDim = {block, 1, 1};
    const unsigned blocks = grid[0] * grid[1] * grid[2];
    for (unsigned turn = 0; turn < blocks; ++turn) {
        const unsigned i = backwards ? blocks - 1 - turn : turn;
        blockIdx = {i % grid[0], i / grid[0] % grid[1], i / grid[0] / grid[1]};
        run_block();
    }
}
