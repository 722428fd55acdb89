#include "../method.h"

namespace tokexport::shell {
namespace {

struct Scope : Method {
    float alpha;
    const char* attention;

    explicit Scope(Attributes& given) : alpha(given.number("alpha", 0.0f, 10.0f)), attention(attention_of(given)) {}

    std::vector<Signal> signals() const override { return {{attention, Signal::Dtype::kAnyFloat}}; }

    int workspace(const Call& call, size_t* bytes) const override {
        const tokexport_scope_params params = of(call);
        return tokexport_scope_workspace(&call.shape, &params, bytes);
    }

    int enqueue(const Call& call) const override {
        const tokexport_scope_params params = of(call);
        return tokexport_scope(&call.shape, &params, call.tokens, call.signals[0].data, call.outputs, call.workspace,
                               call.stream);
    }

    tokexport_scope_params of(const Call& call) const { return {alpha, call.signals[0].dtype}; }
};

const Registered<Scope> registered("TokexportScope");

}  // namespace
}  // namespace tokexport::shell
