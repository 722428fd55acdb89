#include "../method.h"

namespace tokexport::shell {
namespace {

struct Topk : Method {
    int32_t score;
    const char* attention = "cls_attention";

    explicit Topk(Attributes& given) : score(given.choice("score", {"cls_attention", "norm", "distance_to_mean"})) {}
    explicit Topk(const char* attention_) : score(TOKEXPORT_SCORE_GIVEN), attention(attention_) {}

    std::vector<Signal> signals() const override {
        if (score != TOKEXPORT_SCORE_GIVEN) return {};
        return {{attention, Signal::Dtype::kAnyFloat}};
    }

    int workspace(const Call& call, size_t* bytes) const override {
        const tokexport_topk_params params = of(call);
        return tokexport_topk_workspace(&call.shape, &params, bytes);
    }

    int enqueue(const Call& call) const override {
        const tokexport_topk_params params = of(call);
        const void* scores = call.signals.empty() ? nullptr : call.signals[0].data;
        return tokexport_topk(&call.shape, &params, call.tokens, scores, call.outputs, call.workspace, call.stream);
    }

    tokexport_topk_params of(const Call& call) const {
        return {score, call.signals.empty() ? TOKEXPORT_FLOAT32 : call.signals[0].dtype};
    }
};

struct ByAttention : Topk {
    explicit ByAttention(Attributes& given) : Topk(attention_of(given)) {}
};

const Registered<Topk> registered("TokexportTopk");
const Registered<ByAttention> cls("TokexportClsTopk"), audio("TokexportAudioTopk");

}  // namespace
}  // namespace tokexport::shell
