#include "../method.h"

namespace tokexport::shell {
namespace {

struct Dart : Method {
    int32_t pivots;
    bool of_keys;

    explicit Dart(Attributes& given)
        : pivots(given.integer("pivots", 1, TOKEXPORT_MAX_TOKENS)),
          of_keys(given.choice("norm_of", {"keys", "tokens"}) == 0) {}

    std::vector<Signal> signals() const override {
        if (!of_keys) return {};
        return {{"keys", Signal::Dtype::kOfTokens, true}};
    }

    int workspace(const Call& call, size_t* bytes) const override {
        const tokexport_dart_params params = of(call);
        return tokexport_dart_workspace(&call.shape, &params, bytes);
    }

    int enqueue(const Call& call) const override {
        const tokexport_dart_params params = of(call);
        const void* keys = of_keys ? call.signals[0].data : nullptr;
        return tokexport_dart(&call.shape, &params, call.tokens, keys, call.outputs, call.workspace, call.stream);
    }

    tokexport_dart_params of(const Call& call) const { return {pivots, of_keys ? call.signals[0].dim : 0}; }
};

const Registered<Dart> registered("TokexportDart");

}  // namespace
}  // namespace tokexport::shell
