#include "../method.h"

namespace tokexport::shell {
namespace {

struct Tome : Method {
    bool of_keys;

    explicit Tome(Attributes& given) : of_keys(given.choice("metric", {"keys", "tokens"}) == 0) {}

    std::vector<Signal> signals() const override {
        if (!of_keys) return {};
        return {{"keys", Signal::Dtype::kOfTokens, true}};
    }

    int workspace(const Call& call, size_t* bytes) const override {
        const tokexport_tome_params params = of(call);
        return tokexport_tome_workspace(&call.shape, &params, bytes);
    }

    int enqueue(const Call& call) const override {
        const tokexport_tome_params params = of(call);
        const void* metric = of_keys ? call.signals[0].data : nullptr;
        return tokexport_tome(&call.shape, &params, call.tokens, metric, nullptr, call.outputs, call.workspace,
                              call.stream);
    }

    tokexport_tome_params of(const Call& call) const { return {of_keys ? call.signals[0].dim : 0, 0}; }
};

const Registered<Tome> registered("TokexportTome");

}  // namespace
}  // namespace tokexport::shell
