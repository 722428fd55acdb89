// What every entry point does before it enqueues: check its arguments, lay out its workspace, choose the element type.
#pragma once

#include <initializer_list>

#include "parameters.h"
#include "rows.cuh"
#include "tokexport_kernels.h"

namespace tokexport {

// A TOKEXPORT_* code for a shape outside the limits.
int check(const tokexport_shape* shape);
int check(const tokexport_shape& shape, const void* tokens, const tokexport_outputs& outputs,
          const tokexport_workspace& workspace, size_t needed);

// A further input whose elements have `bytes` bytes.
int check_signal(const void* signal, size_t bytes);

size_t bytes_of(int dtype);

// A further input whose dtype is a parameter; check_parameters refuses a dtype that there is not.
inline int check_signal_of(int dtype, const void* signal) {
    return is_dtype(dtype) ? check_signal(signal, bytes_of(dtype)) : TOKEXPORT_OK;
}

// Whether the tokens lie on this grid.
inline bool covers(const tokexport_grid& g, const tokexport_shape& s) {
    for (const int32_t side : {g.frames, g.height, g.width})
        if (side < 1 || side > s.tokens) return false;
    return static_cast<int64_t>(g.frames) * g.height * g.width == s.tokens;
}

inline int status(cudaError_t error) { return error == cudaSuccess ? TOKEXPORT_OK : TOKEXPORT_CUDA_ERROR + error; }

// Hands out parts of the workspace; without one it only counts.
class Arena {
  public:
    explicit Arena(void* base = nullptr) : base_(static_cast<char*>(base)) {}

    template <class T>
    T* take(size_t batch, size_t count) {
        char* part = base_ == nullptr ? nullptr : base_ + used_;
        used_ += (batch * count * sizeof(T) + TOKEXPORT_ALIGNMENT - 1) / TOKEXPORT_ALIGNMENT * TOKEXPORT_ALIGNMENT;
        return reinterpret_cast<T*>(part);
    }

    size_t used() const { return used_; }

  private:
    char* base_;
    size_t used_ = 0;
};

template <class T, class Body>
int with_width(int dim, const void* in, const void* out, Body body) {
    constexpr int kWide = 16 / sizeof(T);
    const bool aligned = (reinterpret_cast<uintptr_t>(in) | reinterpret_cast<uintptr_t>(out)) % 16 == 0;
    return aligned && dim % kWide == 0 ? body(Layout<T, kWide>{}) : body(Layout<T, 1>{});
}

// body(Layout<T, 1>{}) for a checked dtype.
template <class Body>
int with_type(int dtype, Body body) {
    if (dtype == TOKEXPORT_FLOAT32) return body(Layout<float, 1>{});
    if (dtype == TOKEXPORT_FLOAT16) return body(Layout<__half, 1>{});
    return body(Layout<__nv_bfloat16, 1>{});
}

// body(Layout<T, V>{}) for a checked dtype: 16 bytes to an access where rows allow it, else one element.
template <class Body>
int with_layout(int dtype, int dim, const void* in, const void* out, Body body) {
    return with_type(dtype,
                     [&](auto narrow) { return with_width<typename decltype(narrow)::T>(dim, in, out, body); });
}

template <class L>
Rows<L> rows(const void* tokens, const tokexport_shape& shape) {
    return {static_cast<const typename L::T*>(tokens), shape.tokens, shape.dim};
}

struct NoParams {};

inline int check_parameters(NoParams) { return TOKEXPORT_OK; }

// A method is its Scratch: what it takes of the workspace, Scratch(arena, shape, params), and what its parameters must
// be beside each other and the shape, Scratch::check(shape, params). Its two entry points follow from that.
template <class Scratch, class Params>
int workspace_bytes(const tokexport_shape* shape, const Params* params, size_t* bytes) {
    if (const int bad = check(shape)) return bad;
    if (params == nullptr || bytes == nullptr) return TOKEXPORT_NULL_POINTER;
    if (const int bad = check_parameters(*params)) return bad;
    if (const int bad = Scratch::check(*shape, *params)) return bad;
    Arena arena;
    Scratch(arena, *shape, *params);
    *bytes = arena.used();
    return TOKEXPORT_OK;
}

// body(layout of the tokens, queue, scratch), once everything is checked.
template <class Scratch, class Params, class Body>
int enqueue(const tokexport_shape* shape, const Params* params, const void* tokens, const tokexport_outputs& outputs,
            const tokexport_workspace& workspace, cudaStream_t stream, Body body) {
    size_t needed = 0;
    if (const int bad = workspace_bytes<Scratch>(shape, params, &needed)) return bad;
    if (const int bad = check(*shape, tokens, outputs, workspace, needed)) return bad;
    Arena arena(workspace.data);
    const Scratch scratch(arena, *shape, *params);
    return with_layout(shape->dtype, shape->dim, tokens, outputs.tokens, [&](auto layout) {
        Queue queue(stream);
        body(layout, queue, scratch);
        return status(queue.error());
    });
}

}  // namespace tokexport
