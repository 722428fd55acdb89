#include <algorithm>

#include "../method.h"

namespace tokexport::shell {
namespace {

struct Pool : Method {
    tokexport_pool_params params;

    explicit Pool(Attributes& given) {
        const int32_t mode = given.choice("mode", {"average", "max", "bilinear"});
        const tokexport_grid grid = grid_of(given);
        const int32_t stride = given.integer("stride", 1, TOKEXPORT_MAX_TOKENS);
        // Sound is a grid of height 1: a stride is along the axes that are there.
        params = {grid, 1, std::min(stride, grid.height), std::min(stride, grid.width), mode};
    }

    int enqueue(const Call& call) const override {
        return tokexport_pool(&call.shape, &params, call.tokens, call.outputs, call.stream);
    }
};

// Blocks of floor(N / K) frames, the largest that leave K slots.
int pool_frames(const tokexport_grid& grid, const Call& call) {
    const tokexport_pool_params params{grid, call.shape.tokens / call.shape.keep, 1, 1, TOKEXPORT_POOL_AVERAGE};
    return tokexport_pool(&call.shape, &params, call.tokens, call.outputs, call.stream);
}

struct TemporalPool : Method {
    tokexport_grid grid;

    explicit TemporalPool(Attributes& given) : grid(grid_of(given)) {}

    int enqueue(const Call& call) const override { return pool_frames(grid, call); }
};

struct Pool1d : Method {
    explicit Pool1d(Attributes&) {}

    int enqueue(const Call& call) const override { return pool_frames({call.shape.tokens, 1, 1}, call); }
};

const Registered<Pool> registered("TokexportPool");
const Registered<TemporalPool> temporal("TokexportTemporalPool");
const Registered<Pool1d> line("TokexportPool1d");

}  // namespace
}  // namespace tokexport::shell
