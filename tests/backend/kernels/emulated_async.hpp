// What Hopper does while the program goes on: barriers that copies arrive at, and products of warpgroups (wgmma). Copies are
// done, and arrive, as late as they may: when nothing else goes on. Products read their operands when they begin and when
// they are waited for; their sums are NaN meanwhile, and stay so where an operand has changed, a sum was written, or a
// matrix lies as is not known here. Not shown: a missing fence between threads' writes and products.
#include <map>
#include <unordered_map>
#include <vector>

// --- barriers in shared memory, by address, and those with a number

struct Phases {
    int arrivals, left;
    unsigned parity = 0;
};
static std::unordered_map<unsigned, Phases> phases;
static std::vector<std::pair<unsigned, Copies>> arrivals;   // of copies under way, each at a barrier
struct Numbered {
    int arrived = 0;
    unsigned generation = 0;
};
static Numbered numbered[16];

static void mbarrier_init_shared__cta_b64(unsigned at, unsigned count) { phases[at] = {(int)count, (int)count}; }
static void mbarrier_arrive_shared__cta_b64(unsigned at) {
    Phases& barrier = phases.at(at);
    if (--barrier.left == 0) barrier.left = barrier.arrivals, barrier.parity ^= 1, goes_on = true;
}
static void cp_async_mbarrier_arrive_noinc_shared__cta_b64(unsigned at) {
    arrivals.push_back({at, std::exchange(copies[threadIdx.x], {})});
}
static void mbarrier_try_wait_parity_shared__cta_b64(unsigned at, unsigned parity, unsigned& yes) {
    yes = phases.at(at).parity != parity;
    if (!yes) let_others_run();
}
// Those that arrive where the first do that were begun; whether there are any.
static bool finish_arrivals() {
    if (arrivals.empty()) return false;
    const auto all = std::exchange(arrivals, {});
    for (auto [at, some] : all) {
        if (at != all.front().first) {
            arrivals.push_back({at, some});
            continue;
        }
        finish(some);
        free(some.all);
        mbarrier_arrive_shared__cta_b64(at);
    }
    return true;
}
static void bar_sync(int number, int threads) {
    Numbered& barrier = numbered[number];
    const unsigned seen = barrier.generation;
    if (++barrier.arrived == threads) barrier.arrived = 0, ++barrier.generation, goes_on = true;
    while (barrier.generation == seen) let_others_run();
}
static void fence_proxy_async_shared__cta_() {}
static void setmaxnreg_dec_sync_aligned_u32(int) {}
static void setmaxnreg_inc_sync_aligned_u32(int) {}

// --- products of warpgroups

struct f16;

// 16 elements along K of `rows` rows of A, or columns of B, in shared memory, as a descriptor says.
struct Matrix {
    uint64_t said = 0;
    bool transposed = false;   // rows, and not K, go along 128 bytes

    unsigned field(int bit) const { return (unsigned)(said >> bit & 0x3fff) << 4; }
    unsigned short at(int row, int k) const {
        const unsigned start = field(0), leading = field(16), stride = field(32);
        unsigned address = transposed ? start + row / 64 * leading + row % 64 * 2 + k / 8 * stride + k % 8 * 128
                                      : start + row / 8 * stride + row % 8 * 128 + k * 2;
        address ^= address >> 3 & 0x70;
        return address < 1 << 18 ? *reinterpret_cast<const unsigned short*>(shared_pointer(address)) : 0xffff;
    }
    bool is_known() const { return said >> 62 == 1 && (said >> 49 & 7) == 0 && (transposed || field(0) % 128 <= 96); }
    std::vector<unsigned short> read(int rows) const {
        std::vector<unsigned short> all(rows * 16);
        for (int i = 0; i < rows * 16; ++i) all[i] = at(i / 16, i % 16);
        return all;
    }
};
// Where each thread has its sums of a product, and what they are while it is under way.
struct Accumulators {
    float* at[128][128];
    float value[128][128];
    bool written = false;

    void hide(int each) {
        for (int t = 0; t < 128; ++t) {
            for (int i = 0; i < each; ++i) value[t][i] = *at[t][i], *at[t][i] = NAN;
        }
    }
    void show(int each) {
        for (int t = 0; t < 128; ++t) {
            for (int i = 0; i < each; ++i) written = written || *at[t][i] == *at[t][i];
        }
        for (int t = 0; t < 128; ++t) {
            for (int i = 0; i < each; ++i) *at[t][i] = written ? NAN : value[t][i];
        }
    }
};
struct Product {
    Matrix a, b;
    bool adds, in_registers;
    int columns;
    float (*wide)(unsigned short);
    Accumulators* sums;
    unsigned* registers[128][4];   // A's
    std::vector<unsigned short> a_before, b_before;

    std::vector<unsigned short> read_a() const {
        if (!in_registers) return a.read(64);
        std::vector<unsigned short> all(64 * 16);
        for (int i = 0; i < 64 * 16; ++i) {
            const int row = i / 16, k = i % 16;
            all[i] = *registers[row / 16 * 32 + row % 8 * 4 + k % 8 / 2][row / 8 % 2 + k / 8 * 2] >> k % 2 * 16;
        }
        return all;
    }
    void begin() { a_before = read_a(), b_before = b.read(columns); }
    void finish() const {
        const bool kept = read_a() == a_before && b.read(columns) == b_before && (in_registers || a.is_known()) && b.is_known();
        std::vector<float> left(64 * 16), right(columns * 16);
        for (size_t i = 0; i < left.size(); ++i) left[i] = wide(a_before[i]);
        for (size_t i = 0; i < right.size(); ++i) right[i] = wide(b_before[i]);
        for (int row = 0; row < 64; ++row) {
            for (int column = 0; column < columns; ++column) {
                float* const mine = sums->value[row / 16 * 32 + row % 8 * 4 + column % 8 / 2];
                float& sum = mine[column / 8 * 4 + row / 8 % 2 * 2 + column % 2];
                if (!adds) sum = 0;
                for (int k = 0; k < 16; ++k) sum += left[row * 16 + k] * right[column * 16 + k];
                if (!kept) sum = NAN;
            }
        }
    }
};
struct Warpgroup {
    Barrier barrier;
    float* sums[128][128];
    unsigned* registers[128][4];
    std::map<float*, Accumulators> hidden;   // of products under way, by the first
    std::vector<std::vector<Product>> groups{1};   // the last is open
};
static Warpgroup warpgroups[8];

static void start_warpgroups(int threads) {
    phases.clear(), arrivals.clear();
    for (Numbered& each : numbered) each = {};
    for (int w = 0; w < threads / 128; ++w) warpgroups[w] = {}, warpgroups[w].barrier.alive = 128;
}
static const bool is_async = (start_async = start_warpgroups, finish_async = finish_arrivals, true);
// What a warpgroup does together, by the last of its threads.
template <class F> static void as_one(F work) {
    Warpgroup& group = warpgroups[threadIdx.x / 128];
    if (group.barrier.arrived + 1 == group.barrier.alive) work(group);
    wait_at(group.barrier);
}
static void wgmma_fence_sync_aligned_() {}
static void wgmma_commit_group_sync_aligned_() {
    as_one([](Warpgroup& group) { group.groups.push_back({}); });
}
static void wgmma_wait_group_sync_aligned(int left) {
    as_one([left](Warpgroup& group) {
        for (; (int)group.groups.size() > left + 1; group.groups.erase(group.groups.begin())) {
            for (const Product& each : group.groups.front()) each.finish();
            for (const Product& each : group.groups.front()) {
                if (auto found = group.hidden.find(each.sums->at[0][0]); found != group.hidden.end()) {
                    found->second.show(each.columns / 2);
                    group.hidden.erase(found);
                }
            }
        }
    });
}
static void begin_product(Warpgroup& group, Product product) {
    auto [found, is_new] = group.hidden.try_emplace(group.sums[0][0]);
    product.sums = &found->second;
    if (is_new) std::memcpy(product.sums->at, group.sums, sizeof(group.sums)), product.sums->hide(product.columns / 2);
    std::memcpy(product.registers, group.registers, sizeof(group.registers));
    product.begin();
    group.groups.back().push_back(std::move(product));
}
// An operand of the instruction: a register, or a number.
struct Operand {
    float* sum = nullptr;
    unsigned* word = nullptr;
    uint64_t number = 0;
    Operand(float& x) : sum(&x) {}
    Operand(unsigned& x) : word(&x) {}
    Operand(int x) : number(x) {}
    Operand(unsigned long long x) : number(x) {}
};
// Of N sums, then A's descriptor or registers, B's, whether it adds, whether A in shared memory and B are transposed.
static void multiply(int n, float (*wide)(unsigned short), const Operand* given, bool in_registers) {
    Warpgroup& group = warpgroups[threadIdx.x / 128];
    const int me = threadIdx.x % 128;
    for (int i = 0; i < n; ++i) group.sums[me][i] = given[i].sum;
    for (int i = 0; i < 4; ++i) group.registers[me][i] = given[n + i].word;
    Product product{};
    product.columns = 2 * n, product.wide = wide, product.in_registers = in_registers;
    const Operand* rest = given + n;
    if (in_registers) rest += 4;
    else product.a = {rest[0].number, rest[3].number != 0}, ++rest;
    product.b = {rest[0].number, rest[in_registers ? 2 : 3].number != 0}, product.adds = rest[1].number;
    as_one([&](Warpgroup& whole) { begin_product(whole, product); });
}
template <class T, int N, class... P> static void multiply(P&&... given) {
    const Operand all[] = {given...};
    multiply(N, std::is_same_v<T, f16> ? from_half : from_brain, all, sizeof...(P) == N + 7);
}
#define wgmma_mma_async_sync_aligned_m64n128k16_f32__(...) multiply<T, 64>(__VA_ARGS__)   // T: the kernel's
#define wgmma_mma_async_sync_aligned_m64n64k16_f32__(...) multiply<T, 32>(__VA_ARGS__)
