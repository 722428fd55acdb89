// pool and pixel_unshuffle: graph_passes/compressors of these names. One launch for the tokens, one for the indices.
#include "host.h"
#include "windows.cuh"

namespace tokexport {
namespace {

int check_grid(const tokexport_shape& s, const tokexport_grid& g, int by_frames, int by_height, int by_width) {
    const auto fits = [](int by, int side) { return by >= 1 && by <= side; };
    if (!fits(by_frames, g.frames) || !fits(by_height, g.height) || !fits(by_width, g.width)) return TOKEXPORT_BAD_GRID;
    return covers(g, s) ? TOKEXPORT_OK : TOKEXPORT_BAD_GRID;
}

void indices(Queue& queue, const tokexport_shape& s, const Grid& grid, bool corners, const tokexport_outputs& out) {
    queue(GridIndices{grid, corners, out.kept_indices, out.sizes, out.assignment, s.tokens, s.keep},
          dim3(ceil_div(s.tokens, kThreads), s.batch));
}

}  // namespace
}  // namespace tokexport

using namespace tokexport;

int tokexport_pool(const tokexport_shape* shape, const tokexport_pool_params* params, const void* tokens,
                   tokexport_outputs outputs, tokexport_stream stream) {
    if (const int bad = check(shape)) return bad;
    if (params == nullptr) return TOKEXPORT_NULL_POINTER;
    const tokexport_pool_params& p = *params;
    if (p.mode < TOKEXPORT_POOL_AVERAGE || p.mode > TOKEXPORT_POOL_BILINEAR) return TOKEXPORT_BAD_PARAMETER;
    const bool resize = p.mode == TOKEXPORT_POOL_BILINEAR;
    // An interpolated grid is the same for every step that passes its side, so any step will do.
    const auto at_most = [resize](int by, int side) { return resize && by > side && side >= 1 ? side : by; };
    const int by_height = at_most(p.by_height, p.grid.height), by_width = at_most(p.by_width, p.grid.width);
    if (const int bad = check_grid(*shape, p.grid, p.by_frames, by_height, by_width)) return bad;
    if (resize && p.by_frames != 1) return TOKEXPORT_BAD_PARAMETER;
    const auto axis = resize ? Axis::points : Axis::windows;
    const Grid grid{Axis::windows(p.grid.frames, p.by_frames), axis(p.grid.height, by_height),
                    axis(p.grid.width, by_width), false};
    if (grid.count() != shape->keep) return TOKEXPORT_BAD_KEEP;
    if (const int bad = check(*shape, tokens, outputs, {}, 0)) return bad;
    return with_layout(shape->dtype, shape->dim, tokens, outputs.tokens, [&](auto layout) {
        using L = decltype(layout);
        Queue queue(stream);
        auto* out = static_cast<typename L::T*>(outputs.tokens);
        const dim3 blocks(shape->keep, shape->batch, ceil_div(shape->dim, kThreads * L::V));
        if (resize)
            queue(Resize<L>{rows<L>(tokens, *shape), grid, out}, blocks);
        else
            queue(Pool<L>{rows<L>(tokens, *shape), grid, p.mode == TOKEXPORT_POOL_MAX, out}, blocks);
        indices(queue, *shape, grid, false, outputs);
        return status(queue.error());
    });
}

int tokexport_pixel_unshuffle(const tokexport_shape* shape, const tokexport_pixel_unshuffle_params* params,
                              const void* tokens, tokexport_outputs outputs, tokexport_stream stream) {
    if (const int bad = check(shape)) return bad;
    if (params == nullptr) return TOKEXPORT_NULL_POINTER;
    const tokexport_pixel_unshuffle_params& p = *params;
    if (p.transposed != 0 && p.transposed != 1) return TOKEXPORT_BAD_PARAMETER;
    if (const int bad = check_grid(*shape, p.grid, 1, p.by_height, p.by_width)) return bad;
    const Grid grid{Axis::windows(p.grid.frames, 1), Axis::windows(p.grid.height, p.by_height),
                    Axis::windows(p.grid.width, p.by_width), p.transposed == 1};
    if (grid.count() != shape->keep) return TOKEXPORT_BAD_KEEP;
    const int64_t width = static_cast<int64_t>(p.by_height) * p.by_width * shape->dim;
    if (width > static_cast<int64_t>(TOKEXPORT_MAX_DIM) * kThreads) return TOKEXPORT_BAD_DIM;
    if (const int bad = check(*shape, tokens, outputs, {}, 0)) return bad;
    return with_layout(shape->dtype, shape->dim, tokens, outputs.tokens, [&](auto layout) {
        using L = decltype(layout);
        Queue queue(stream);
        const auto blocks = static_cast<unsigned>((width + kThreads * L::V - 1) / (kThreads * L::V));
        queue(Stack<L>{rows<L>(tokens, *shape), grid, static_cast<typename L::T*>(outputs.tokens)},
              dim3(shape->keep, shape->batch, blocks));
        indices(queue, *shape, grid, true, outputs);
        return status(queue.error());
    });
}
