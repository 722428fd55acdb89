#include "../method.h"

namespace tokexport::shell {
namespace {

struct Cdpruner : Method {
    int32_t text_length, inverted;

    explicit Cdpruner(Attributes& given)
        : text_length(given.integer("text_length", 1, TOKEXPORT_MAX_TOKENS)),
          inverted(given.flag("inverted")) {}

    std::vector<Signal> signals() const override {
        return {{"text", Signal::Dtype::kAnyFloat, false, text_length}};
    }

    int workspace(const Call& call, size_t* bytes) const override {
        const tokexport_cdpruner_params params = of(call);
        return tokexport_cdpruner_workspace(&call.shape, &params, bytes);
    }

    int enqueue(const Call& call) const override {
        const tokexport_cdpruner_params params = of(call);
        return tokexport_cdpruner(&call.shape, &params, call.tokens, call.signals[0].data, call.outputs,
                                  call.workspace, call.stream);
    }

    tokexport_cdpruner_params of(const Call& call) const { return {text_length, inverted, call.signals[0].dtype}; }
};

const Registered<Cdpruner> registered("TokexportCdpruner");

}  // namespace
}  // namespace tokexport::shell
