#include "../method.h"

namespace tokexport::shell {
namespace {

struct Random : Method {
    tokexport_random_params params;

    explicit Random(Attributes& given) : params{given.seed("seed")} {}

    int workspace(const Call& call, size_t* bytes) const override {
        return tokexport_random_workspace(&call.shape, &params, bytes);
    }

    int enqueue(const Call& call) const override {
        return tokexport_random(&call.shape, &params, call.tokens, call.outputs, call.workspace, call.stream);
    }
};

const Registered<Random> registered("TokexportRandom");

}  // namespace
}  // namespace tokexport::shell
