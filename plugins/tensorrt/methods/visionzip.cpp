#include "../method.h"

namespace tokexport::shell {
namespace {

struct Visionzip : Method {
    int32_t contextual, merge;
    const char* attention;

    explicit Visionzip(Attributes& given)
        : contextual(given.integer("contextual", 0, TOKEXPORT_MAX_TOKENS)),
          merge(given.choice("merge", {"add", "mean"})),
          attention(attention_of(given)) {}

    std::vector<Signal> signals() const override {
        return {{attention, Signal::Dtype::kAnyFloat}, {"keys", Signal::Dtype::kOfTokens, true}};
    }

    int workspace(const Call& call, size_t* bytes) const override {
        const tokexport_visionzip_params params = of(call);
        return tokexport_visionzip_workspace(&call.shape, &params, bytes);
    }

    int enqueue(const Call& call) const override {
        const tokexport_visionzip_params params = of(call);
        return tokexport_visionzip(&call.shape, &params, call.tokens, call.signals[0].data, call.signals[1].data,
                                   call.outputs, call.workspace, call.stream);
    }

    tokexport_visionzip_params of(const Call& call) const {
        return {contextual, merge, call.signals[0].dtype, call.signals[1].dim};
    }
};

const Registered<Visionzip> registered("TokexportVisionzip");

}  // namespace
}  // namespace tokexport::shell
