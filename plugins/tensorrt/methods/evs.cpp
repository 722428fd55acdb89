#include "../method.h"

namespace tokexport::shell {
namespace {

struct Evs : Method {
    tokexport_evs_params params;

    explicit Evs(Attributes& given) : params{grid_of(given)} {}

    int workspace(const Call& call, size_t* bytes) const override {
        return tokexport_evs_workspace(&call.shape, &params, bytes);
    }

    int enqueue(const Call& call) const override {
        return tokexport_evs(&call.shape, &params, call.tokens, call.outputs, call.workspace, call.stream);
    }
};

const Registered<Evs> registered("TokexportEvs");

}  // namespace
}  // namespace tokexport::shell
