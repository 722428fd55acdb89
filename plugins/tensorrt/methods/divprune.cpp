#include "../method.h"

namespace tokexport::shell {
namespace {

struct Divprune : Method {
    explicit Divprune(Attributes&) {}

    int workspace(const Call& call, size_t* bytes) const override {
        return tokexport_divprune_workspace(&call.shape, bytes);
    }

    int enqueue(const Call& call) const override {
        return tokexport_divprune(&call.shape, call.tokens, call.outputs, call.workspace, call.stream);
    }
};

const Registered<Divprune> registered("TokexportDivprune");

}  // namespace
}  // namespace tokexport::shell
