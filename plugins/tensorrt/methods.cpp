// Generated from plugins/schema.py by `python -m tokexport.plugins.generate`: do not edit.
#include "method.h"

namespace tokexport::shell {
namespace {

struct Apet : Method {
    tokexport_apet_params params;

    explicit Apet(Attributes& given)
        : params{given.integer("basis", 1, TOKEXPORT_MAX_BASIS), given.flag("merge"),
                 given.choice("basis_slots", {"overwrite", "blend", "none"}),
                 given.choice("start", {"first", "max_norm", "farthest_from_mean"}),
                 given.number("ridge", 1e-09f, 1000000000.0f)} {}

    int workspace(const Call& call, size_t* bytes) const override {
        return tokexport_apet_workspace(&call.shape, &params, bytes);
    }

    int enqueue(const Call& call) const override {
        return tokexport_apet(&call.shape, &params, call.tokens, call.outputs, call.workspace, call.stream);
    }
};

struct AudioTopk : Method {
    int32_t attention;
    tokexport_topk_params params;

    explicit AudioTopk(Attributes& given)
        : attention(given.choice("attention", {"cls", "received", "words", "raters", "peak"})),
          params{TOKEXPORT_SCORE_GIVEN, 0} {}

    std::vector<Signal> signals() const override {
        std::vector<Signal> read;
        read.push_back({attention == 0 ? "cls_attention"
                        : attention == 1 ? "received_attention"
                        : attention == 2 ? "words_attention"
                        : attention == 3 ? "raters_attention"
                        : "peak_attention", Signal::Dtype::kAnyFloat});
        return read;
    }

    tokexport_topk_params of(const Call& call) const {
        auto p = params;
        p.scores_dtype = call.dtype_of(0);
        return p;
    }

    int workspace(const Call& call, size_t* bytes) const override {
        const auto p = of(call);
        return tokexport_topk_workspace(&call.shape, &p, bytes);
    }

    int enqueue(const Call& call) const override {
        const auto p = of(call);
        return tokexport_topk(&call.shape, &p, call.tokens, call.data_of(0), call.outputs, call.workspace, call.stream);
    }
};

struct Cdpruner : Method {
    tokexport_cdpruner_params params;

    explicit Cdpruner(Attributes& given)
        : params{given.integer("text_length", 1, TOKEXPORT_MAX_TOKENS), given.flag("inverted"), 0} {}

    std::vector<Signal> signals() const override {
        std::vector<Signal> read;
        read.push_back({"text", Signal::Dtype::kAnyFloat, false, params.text_length});
        return read;
    }

    tokexport_cdpruner_params of(const Call& call) const {
        auto p = params;
        p.text_dtype = call.dtype_of(0);
        return p;
    }

    int workspace(const Call& call, size_t* bytes) const override {
        const auto p = of(call);
        return tokexport_cdpruner_workspace(&call.shape, &p, bytes);
    }

    int enqueue(const Call& call) const override {
        const auto p = of(call);
        return tokexport_cdpruner(&call.shape, &p, call.tokens, call.data_of(0), call.outputs, call.workspace,
                                  call.stream);
    }
};

struct Dart : Method {
    int32_t norm_of;
    tokexport_dart_params params;

    explicit Dart(Attributes& given)
        : norm_of(given.choice("norm_of", {"keys", "tokens"})),
          params{given.integer("pivots", 1, TOKEXPORT_MAX_TOKENS), 0} {}

    std::vector<Signal> signals() const override {
        std::vector<Signal> read;
        if (norm_of == 0) read.push_back({"keys", Signal::Dtype::kOfTokens, true});
        return read;
    }

    tokexport_dart_params of(const Call& call) const {
        auto p = params;
        p.keys_dim = call.dim_of(0);
        return p;
    }

    int workspace(const Call& call, size_t* bytes) const override {
        const auto p = of(call);
        return tokexport_dart_workspace(&call.shape, &p, bytes);
    }

    int enqueue(const Call& call) const override {
        const auto p = of(call);
        return tokexport_dart(&call.shape, &p, call.tokens, call.data_of(0), call.outputs, call.workspace, call.stream);
    }
};

struct Divprune : Method {
    explicit Divprune(Attributes&) {}

    int workspace(const Call& call, size_t* bytes) const override {
        return tokexport_divprune_workspace(&call.shape, bytes);
    }

    int enqueue(const Call& call) const override {
        return tokexport_divprune(&call.shape, call.tokens, call.outputs, call.workspace, call.stream);
    }
};

struct Evs : Method {
    tokexport_evs_params params;

    explicit Evs(Attributes& given)
        : params{grid_of(given)} {}

    int workspace(const Call& call, size_t* bytes) const override {
        return tokexport_evs_workspace(&call.shape, &params, bytes);
    }

    int enqueue(const Call& call) const override {
        return tokexport_evs(&call.shape, &params, call.tokens, call.outputs, call.workspace, call.stream);
    }
};

struct KcenterMerge : Method {
    tokexport_kcenter_merge_params params;

    explicit KcenterMerge(Attributes& given)
        : params{given.choice("start", {"first", "max_norm", "farthest_from_mean"})} {}

    int workspace(const Call& call, size_t* bytes) const override {
        return tokexport_kcenter_merge_workspace(&call.shape, &params, bytes);
    }

    int enqueue(const Call& call) const override {
        return tokexport_kcenter_merge(&call.shape, &params, call.tokens, call.outputs, call.workspace, call.stream);
    }
};

struct Scope : Method {
    int32_t attention;
    tokexport_scope_params params;

    explicit Scope(Attributes& given)
        : attention(given.choice("attention", {"cls", "received", "words", "raters", "peak"})),
          params{given.number("alpha", 0.0f, 10.0f), 0} {}

    std::vector<Signal> signals() const override {
        std::vector<Signal> read;
        read.push_back({attention == 0 ? "cls_attention"
                        : attention == 1 ? "received_attention"
                        : attention == 2 ? "words_attention"
                        : attention == 3 ? "raters_attention"
                        : "peak_attention", Signal::Dtype::kAnyFloat});
        return read;
    }

    tokexport_scope_params of(const Call& call) const {
        auto p = params;
        p.attention_dtype = call.dtype_of(0);
        return p;
    }

    int workspace(const Call& call, size_t* bytes) const override {
        const auto p = of(call);
        return tokexport_scope_workspace(&call.shape, &p, bytes);
    }

    int enqueue(const Call& call) const override {
        const auto p = of(call);
        return tokexport_scope(&call.shape, &p, call.tokens, call.data_of(0), call.outputs, call.workspace,
                               call.stream);
    }
};

struct Tome : Method {
    int32_t metric;
    tokexport_tome_params params;

    explicit Tome(Attributes& given)
        : metric(given.choice("metric", {"keys", "tokens"})),
          params{0, 0} {}

    std::vector<Signal> signals() const override {
        std::vector<Signal> read;
        if (metric == 0) read.push_back({"keys", Signal::Dtype::kOfTokens, true});
        return read;
    }

    tokexport_tome_params of(const Call& call) const {
        auto p = params;
        p.metric_dim = call.dim_of(0);
        return p;
    }

    int workspace(const Call& call, size_t* bytes) const override {
        const auto p = of(call);
        return tokexport_tome_workspace(&call.shape, &p, bytes);
    }

    int enqueue(const Call& call) const override {
        const auto p = of(call);
        return tokexport_tome(&call.shape, &p, call.tokens, call.data_of(0), nullptr, call.outputs, call.workspace,
                              call.stream);
    }
};

struct Topk : Method {
    tokexport_topk_params params;

    explicit Topk(Attributes& given)
        : params{given.choice("score", {"cls_attention", "norm", "distance_to_mean"}), 0} {}

    std::vector<Signal> signals() const override {
        std::vector<Signal> read;
        if (params.score == 0) read.push_back({"cls_attention", Signal::Dtype::kAnyFloat});
        return read;
    }

    tokexport_topk_params of(const Call& call) const {
        auto p = params;
        p.scores_dtype = call.dtype_of(0);
        return p;
    }

    int workspace(const Call& call, size_t* bytes) const override {
        const auto p = of(call);
        return tokexport_topk_workspace(&call.shape, &p, bytes);
    }

    int enqueue(const Call& call) const override {
        const auto p = of(call);
        return tokexport_topk(&call.shape, &p, call.tokens, call.data_of(0), call.outputs, call.workspace, call.stream);
    }
};

struct Visionzip : Method {
    int32_t attention;
    tokexport_visionzip_params params;

    explicit Visionzip(Attributes& given)
        : attention(given.choice("attention", {"cls", "received", "words", "raters", "peak"})),
          params{given.integer("contextual", 0, TOKEXPORT_MAX_TOKENS), given.choice("merge", {"add", "mean"}), 0, 0} {}

    std::vector<Signal> signals() const override {
        std::vector<Signal> read;
        read.push_back({attention == 0 ? "cls_attention"
                        : attention == 1 ? "received_attention"
                        : attention == 2 ? "words_attention"
                        : attention == 3 ? "raters_attention"
                        : "peak_attention", Signal::Dtype::kAnyFloat});
        read.push_back({"keys", Signal::Dtype::kOfTokens, true});
        return read;
    }

    tokexport_visionzip_params of(const Call& call) const {
        auto p = params;
        p.attention_dtype = call.dtype_of(0);
        p.keys_dim = call.dim_of(1);
        return p;
    }

    int workspace(const Call& call, size_t* bytes) const override {
        const auto p = of(call);
        return tokexport_visionzip_workspace(&call.shape, &p, bytes);
    }

    int enqueue(const Call& call) const override {
        const auto p = of(call);
        return tokexport_visionzip(&call.shape, &p, call.tokens, call.data_of(0), call.data_of(1), call.outputs,
                                   call.workspace, call.stream);
    }
};

const Registered<Apet> apet("TokexportApet");
const Registered<AudioTopk> audio_topk("TokexportAudioTopk");
const Registered<Cdpruner> cdpruner("TokexportCdpruner");
const Registered<AudioTopk> cls_topk("TokexportClsTopk");
const Registered<Dart> dart("TokexportDart");
const Registered<Divprune> divprune("TokexportDivprune");
const Registered<Evs> evs("TokexportEvs");
const Registered<KcenterMerge> kcenter_merge("TokexportKcenterMerge");
const Registered<Scope> scope("TokexportScope");
const Registered<Tome> tome("TokexportTome");
const Registered<Topk> topk("TokexportTopk");
const Registered<Visionzip> visionzip("TokexportVisionzip");

}  // namespace
}  // namespace tokexport::shell
