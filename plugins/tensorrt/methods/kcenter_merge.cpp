#include "../method.h"

namespace tokexport::shell {
namespace {

struct KcenterMerge : Method {
    tokexport_kcenter_merge_params params;

    explicit KcenterMerge(Attributes& given) : params{start_of(given)} {}

    int workspace(const Call& call, size_t* bytes) const override {
        return tokexport_kcenter_merge_workspace(&call.shape, &params, bytes);
    }

    int enqueue(const Call& call) const override {
        return tokexport_kcenter_merge(&call.shape, &params, call.tokens, call.outputs, call.workspace, call.stream);
    }
};

const Registered<KcenterMerge> registered("TokexportKcenterMerge");

}  // namespace
}  // namespace tokexport::shell
