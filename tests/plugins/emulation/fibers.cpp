// Blocks one after the other, the threads of a block as fibers with a stack each.
//
// makecontext gives a fiber its stack; from then on _setjmp and _longjmp switch, because swapcontext asks the kernel to
// save the signal mask every time.
#include <ucontext.h>

#include <csetjmp>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "cuda_runtime.h"

dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace emulation {

namespace {

constexpr size_t kStackBytes = 64 * 1024;

enum class State { kReady, kAtBlockBarrier, kAtWarpBarrier, kDone };

struct Fiber {
    jmp_buf at;
    bool started = false;
    std::vector<char> stack;
    State state = State::kReady;
    unsigned set = 0;  // which of the two sets of exchange words is next
};

struct Block {
    std::vector<Fiber> fibers;
    std::vector<uint64_t> words;
    jmp_buf scheduler;
    unsigned running = 0;
    void (*body)(void*) = nullptr;
    void* context = nullptr;
    bool reverse = false;
};

Block block;

[[noreturn]] void fail(const char* what) {
    std::fprintf(stderr, "emulation: %s (block %u %u %u, thread %u)\n", what, blockIdx.x, blockIdx.y, blockIdx.z,
                 block.running);
    std::abort();
}

void enter() {
    block.body(block.context);
    block.fibers[block.running].state = State::kDone;
    _longjmp(block.scheduler, 1);
}

void wait_at(State barrier) {
    Fiber& fiber = block.fibers[block.running];
    fiber.state = barrier;
    if (_setjmp(fiber.at) == 0) _longjmp(block.scheduler, 1);
}

// Runs a fiber until it waits or ends.
void resume(Fiber& fiber) {
    if (_setjmp(block.scheduler) != 0) return;
    if (fiber.started) _longjmp(fiber.at, 1);
    fiber.started = true;
    ucontext_t context;
    getcontext(&context);
    context.uc_stack.ss_sp = fiber.stack.data();
    context.uc_stack.ss_size = fiber.stack.size();
    context.uc_link = nullptr;
    makecontext(&context, enter, 0);
    setcontext(&context);
}

// Releases the fibers from `first` to `last` if all of them wait at `barrier`.
bool release(size_t first, size_t last, State barrier) {
    for (size_t i = first; i < last; ++i)
        if (block.fibers[i].state != barrier) return false;
    for (size_t i = first; i < last; ++i) block.fibers[i].state = State::kReady;
    return true;
}

size_t in_order(size_t i, size_t count) { return block.reverse ? count - 1 - i : i; }

// Runs a warp as far as it goes without the others.
void run_warp(size_t first) {
    do {
        for (size_t i = 0; i < kWarpSize; ++i) {
            block.running = static_cast<unsigned>(first + in_order(i, kWarpSize));
            threadIdx = dim3(block.running);
            Fiber& fiber = block.fibers[block.running];
            if (fiber.state == State::kReady) resume(fiber);
        }
    } while (release(first, first + kWarpSize, State::kAtWarpBarrier));
}

bool all_done() {
    for (const Fiber& fiber : block.fibers)
        if (fiber.state != State::kDone) return false;
    return true;
}

void run_block() {
    const size_t count = block.fibers.size();
    for (Fiber& fiber : block.fibers) {
        fiber.state = State::kReady;
        fiber.started = false;
        fiber.set = 0;
    }
    do {
        for (size_t i = 0; i < count / kWarpSize; ++i) run_warp(in_order(i, count / kWarpSize) * kWarpSize);
    } while (release(0, count, State::kAtBlockBarrier));
    if (!all_done()) fail("a barrier that not all threads reach");
}

}  // namespace

cudaError_t launch(const cudaLaunchConfig_t& config, void (*body)(void*), void* context) {
    gridDim = config.gridDim;
    blockDim = config.blockDim;
    const size_t threads = blockDim.x, blocks = size_t{gridDim.x} * gridDim.y * gridDim.z;
    const bool valid = threads % kWarpSize == 0 && threads > 0 && threads <= 1024 && blocks > 0 && blockDim.y == 1 &&
                       blockDim.z == 1 && gridDim.y <= 65535 && gridDim.z <= 65535;
    if (!valid) return cudaErrorInvalidConfiguration;

    block.body = body;
    block.context = context;
    block.reverse = std::getenv("TOKEXPORT_EMULATION_REVERSE") != nullptr;
    block.words.assign(threads * 2, 0);
    if (block.fibers.size() != threads) {
        block.fibers = std::vector<Fiber>(threads);
        for (Fiber& fiber : block.fibers) fiber.stack.resize(kStackBytes);
    }
    for (size_t i = 0; i < blocks; ++i) {
        const size_t at = in_order(i, blocks);
        blockIdx = dim3(static_cast<unsigned>(at % gridDim.x), static_cast<unsigned>(at / gridDim.x % gridDim.y),
                        static_cast<unsigned>(at / gridDim.x / gridDim.y));
        run_block();
    }
    return cudaSuccess;
}

void block_barrier() { wait_at(State::kAtBlockBarrier); }

void warp_barrier(unsigned mask) {
    if (mask != 0xffffffffu) fail("a warp operation on part of a warp");
    wait_at(State::kAtWarpBarrier);
}

uint64_t* exchange_words() {
    Fiber& fiber = block.fibers[block.running];
    const size_t warps = block.fibers.size() / kWarpSize;
    const size_t at = (fiber.set * warps + block.running / kWarpSize) * kWarpSize;
    fiber.set ^= 1;
    return &block.words[at];
}

}  // namespace emulation
