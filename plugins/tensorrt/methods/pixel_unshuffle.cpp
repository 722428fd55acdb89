#include "../method.h"

namespace tokexport::shell {
namespace {

struct PixelUnshuffle : Method {
    tokexport_pixel_unshuffle_params params;

    explicit PixelUnshuffle(Attributes& given) {
        const int32_t r = given.integer("r", 2, TOKEXPORT_MAX_TOKENS);
        const int32_t transposed = given.choice("version", {"v2", "v1"});
        params = {grid_of(given), r, r, transposed};
    }

    int64_t width(int64_t dim) const override { return int64_t{params.by_height} * params.by_width * dim; }

    int enqueue(const Call& call) const override {
        return tokexport_pixel_unshuffle(&call.shape, &params, call.tokens, call.outputs, call.stream);
    }
};

struct Stack : Method {
    int32_t k;

    explicit Stack(Attributes& given) : k(given.integer("k", 2, TOKEXPORT_MAX_TOKENS)) {}

    int64_t width(int64_t dim) const override { return k * dim; }

    int enqueue(const Call& call) const override {
        const tokexport_pixel_unshuffle_params params{{1, 1, call.shape.tokens}, 1, k, 0};
        return tokexport_pixel_unshuffle(&call.shape, &params, call.tokens, call.outputs, call.stream);
    }
};

const Registered<PixelUnshuffle> registered("TokexportPixelUnshuffle");
const Registered<Stack> stack("TokexportStack");

}  // namespace
}  // namespace tokexport::shell
