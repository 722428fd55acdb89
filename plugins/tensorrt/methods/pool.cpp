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

const Registered<Pool> registered("TokexportPool");

}  // namespace
}  // namespace tokexport::shell
