#include "../method.h"

namespace tokexport::shell {
namespace {

struct Apet : Method {
    tokexport_apet_params params;

    explicit Apet(Attributes& given)
        : params{given.integer("basis", 1, TOKEXPORT_MAX_BASIS), given.flag("merge"),
                 given.choice("basis_slots", {"overwrite", "blend", "none"}), start_of(given),
                 given.number("ridge", 1e-9f, 1e9f)} {}

    int workspace(const Call& call, size_t* bytes) const override {
        return tokexport_apet_workspace(&call.shape, &params, bytes);
    }

    int enqueue(const Call& call) const override {
        return tokexport_apet(&call.shape, &params, call.tokens, call.outputs, call.workspace, call.stream);
    }
};

const Registered<Apet> registered("TokexportApet");

}  // namespace
}  // namespace tokexport::shell
