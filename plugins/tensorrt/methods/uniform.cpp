#include "../method.h"

namespace tokexport::shell {
namespace {

struct Uniform : Method {
    explicit Uniform(Attributes&) {}

    int enqueue(const Call& call) const override {
        return tokexport_uniform(&call.shape, call.tokens, call.outputs, call.stream);
    }
};

const Registered<Uniform> registered("TokexportUniform");

}  // namespace
}  // namespace tokexport::shell
