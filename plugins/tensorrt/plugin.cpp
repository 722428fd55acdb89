#include "plugin.h"

#include <algorithm>
#include <array>
#include <limits>
#include <sstream>

#include "creator.h"
#include "host.h"

namespace tokexport::shell {

using nvinfer1::DataType;
using nvinfer1::Dims;

namespace {

constexpr int32_t kStoredVersion = 1;
constexpr const char* kStoredVersionName = "stored_version";

constexpr int32_t kOutputs = 4;
constexpr DataType kIndices = DataType::kINT64, kSizes = DataType::kFLOAT;

// What one input looks like; both descriptors of TensorRT come down to it.
struct Tensor {
    Dims dims;
    DataType type;

    explicit Tensor(const nvinfer1::PluginTensorDesc& desc) : dims(desc.dims), type(desc.type) {}
    // Of all that the profile allows the largest: the workspace must do for every one.
    explicit Tensor(const nvinfer1::DynamicPluginTensorDesc& desc) : dims(desc.max), type(desc.desc.type) {}
};

bool is_float(DataType type) {
    return type == DataType::kFLOAT || type == DataType::kHALF || type == DataType::kBF16;
}

int32_t dtype_of(DataType type) {
    switch (type) {
        case DataType::kFLOAT: return TOKEXPORT_FLOAT32;
        case DataType::kHALF: return TOKEXPORT_FLOAT16;
        case DataType::kBF16: return TOKEXPORT_BFLOAT16;
        default: return -1;
    }
}

const char* allowed(Signal::Dtype dtype) {
    switch (dtype) {
        case Signal::Dtype::kOfTokens: return "the type of the tokens";
        case Signal::Dtype::kFloat32: return "float32";
        default: return "float32, float16 or bfloat16";
    }
}

bool fits(Signal::Dtype dtype, DataType signal, DataType tokens) {
    switch (dtype) {
        case Signal::Dtype::kOfTokens: return signal == tokens;
        case Signal::Dtype::kFloat32: return signal == DataType::kFLOAT;
        default: return is_float(signal);
    }
}

// What does not fit into the C ABI must still be out of its limits there.
int32_t narrow(int64_t size) {
    return static_cast<int32_t>(std::min<int64_t>(size, std::numeric_limits<int32_t>::max()));
}

std::string shape_of(const tokexport_shape& shape) {
    std::ostringstream out;
    out << "[" << shape.batch << ", " << shape.tokens << ", " << shape.dim << "]";
    return out.str();
}

std::string misfit(const Signal& signal) {
    if (signal.of_text == 0) return " does not have a value for each of the tokens ";
    return " does not have " + std::to_string(signal.of_text) + " rows as wide as the tokens ";
}

// TensorRT takes no exceptions: what was refused goes to its log, and -1 to the caller.
template <class Body>
int32_t guarded(Body body) noexcept {
    try {
        body();
        return 0;
    } catch (const std::exception& error) {
        log_error(error.what());
        return -1;
    }
}

void require(bool holds, const Definition& definition, const std::string& what) {
    if (!holds) throw Refused(definition.label + ": " + what);
}

void require_inputs(const Definition& definition, const std::vector<Signal>& signals, int32_t inputs) {
    std::string names = "tokens";
    for (const Signal& signal : signals) names += std::string(", ") + signal.name;
    require(inputs == static_cast<int32_t>(signals.size()) + 1, definition,
            "it has " + std::to_string(inputs) + " of its inputs; allowed: " + names);
}

void require_status(int status, const Definition& definition, const tokexport_shape& shape) {
    require(status == TOKEXPORT_OK, definition,
            "tokens " + shape_of(shape) + " with keep " + std::to_string(shape.keep) + ": " +
                tokexport_message(status));
}

template <class Desc>
Call call_of(const Definition& definition, const Desc* inputs) {
    const Tensor tokens(inputs[0]);
    require(tokens.dims.nbDims == 3, definition, "tokens have no shape [B, N, D]");
    Call call;
    call.shape = {narrow(tokens.dims.d[0]), narrow(tokens.dims.d[1]), narrow(tokens.dims.d[2]), definition.keep,
                  dtype_of(tokens.type)};
    for (const Signal& signal : definition.method->signals()) {
        const Tensor given(inputs[call.signals.size() + 1]);
        const int32_t rank = signal.rows || signal.of_text != 0 ? 3 : 2;
        const int64_t count = signal.of_text != 0 ? signal.of_text : tokens.dims.d[1];
        require(given.dims.nbDims == rank && given.dims.d[0] == tokens.dims.d[0] && given.dims.d[1] == count &&
                    (signal.of_text == 0 || given.dims.d[2] == tokens.dims.d[2]),
                definition, std::string(signal.name) + misfit(signal) + shape_of(call.shape));
        call.signals.push_back({nullptr, dtype_of(given.type), narrow(given.dims.d[rank - 1])});
    }
    return call;
}

// Refuses what the entry point refuses. One without data enqueues nothing, and says so last.
void require_valid(const Definition& definition, const Call& call) {
    const int status = definition.method->enqueue(call);
    require_status(status == TOKEXPORT_NULL_POINTER ? TOKEXPORT_OK : status, definition, call.shape);
}

}  // namespace

Definition::Definition(const char* name_, Attributes& given, MakeMethod make)
    : name(name_), label(given.label()), keep(given.integer("keep", 1, TOKEXPORT_MAX_TOKENS)), method(make(given)),
      attributes(given.read()) {
    stored.emplace_back(kStoredVersionName, &kStoredVersion, nvinfer1::PluginFieldType::kINT32, 1);
    for (const Attribute& attribute : attributes)
        stored.emplace_back(attribute.name, attribute.bytes.data(), attribute.type, attribute.length);
    fields = {static_cast<int32_t>(stored.size()), stored.data()};
}

void check_stored_version(const std::string& label, const nvinfer1::PluginFieldCollection* fields) {
    Attributes given(label, fields);
    const int32_t version = given.integer(kStoredVersionName, 1, std::numeric_limits<int32_t>::max());
    if (version != kStoredVersion)
        throw Refused(label + ": the engine stores it as version " + std::to_string(version) +
                      ", and this library reads version " + std::to_string(kStoredVersion) +
                      "; build the engine again, or load the library it was built with");
}

nvinfer1::IPluginCapability* Plugin::getCapabilityInterface(nvinfer1::PluginCapabilityType type) noexcept {
    switch (type) {
        case nvinfer1::PluginCapabilityType::kCORE: return static_cast<nvinfer1::IPluginV3OneCore*>(this);
        case nvinfer1::PluginCapabilityType::kBUILD: return static_cast<nvinfer1::IPluginV3OneBuild*>(this);
        case nvinfer1::PluginCapabilityType::kRUNTIME: return static_cast<nvinfer1::IPluginV3OneRuntime*>(this);
    }
    return nullptr;
}

nvinfer1::IPluginV3* Plugin::clone() noexcept {
    try {
        return new Plugin(definition_);
    } catch (const std::exception& error) {
        log_error(definition_->label + ": " + error.what());
        return nullptr;
    }
}

const char* Plugin::getPluginName() const noexcept { return definition_->name; }
const char* Plugin::getPluginVersion() const noexcept { return kVersion; }
const char* Plugin::getPluginNamespace() const noexcept { return kNamespace; }

int32_t Plugin::getNbOutputs() const noexcept { return kOutputs; }

int32_t Plugin::getOutputDataTypes(DataType* outputs, int32_t output_count, const DataType* inputs,
                                   int32_t input_count) const noexcept {
    return guarded([&] {
        const std::vector<Signal> signals = definition_->method->signals();
        require_inputs(*definition_, signals, input_count);
        require(output_count == kOutputs, *definition_, "it has 4 outputs");
        require(is_float(inputs[0]), *definition_, "tokens have another type; allowed: float32, float16 or bfloat16");
        for (size_t i = 0; i < signals.size(); ++i)
            require(fits(signals[i].dtype, inputs[i + 1], inputs[0]), *definition_,
                    std::string(signals[i].name) + " has another type; allowed: " + allowed(signals[i].dtype));
        const std::array<DataType, kOutputs> types{inputs[0], kIndices, kSizes, kIndices};
        std::copy(types.begin(), types.end(), outputs);
    });
}

int32_t Plugin::getOutputShapes(const nvinfer1::DimsExprs* inputs, int32_t input_count, const nvinfer1::DimsExprs*,
                                int32_t, nvinfer1::DimsExprs* outputs, int32_t output_count,
                                nvinfer1::IExprBuilder& expressions) noexcept {
    return guarded([&] {
        const Definition& self = *definition_;
        require_inputs(self, self.method->signals(), input_count);
        require(output_count == kOutputs, self, "it has 4 outputs");
        require(inputs[0].nbDims == 3, self, "tokens have no shape [B, N, D]");
        const auto *batch = inputs[0].d[0], *tokens = inputs[0].d[1], *dim = inputs[0].d[2];
        require(tokens->isConstant() && dim->isConstant(), self,
                "tokens [B, N, D] whose N or D is not fixed; allowed: only B may vary");

        // Types come later; no limit depends on them. What is not fixed yet is as it should be until it is.
        std::vector<nvinfer1::PluginTensorDesc> descs(static_cast<size_t>(input_count));
        for (int32_t i = 0; i < input_count; ++i) {
            descs[i].type = DataType::kFLOAT;
            descs[i].dims.nbDims = inputs[i].nbDims;
            for (int32_t axis = 0; axis < inputs[i].nbDims; ++axis) {
                const bool known = inputs[i].d[axis]->isConstant() && (axis > 0 || batch->isConstant());
                const int64_t expected = i > 0 && axis < 2 ? descs[0].dims.d[axis] : 1;
                descs[i].dims.d[axis] = known ? inputs[i].d[axis]->getConstantValue() : expected;
            }
        }
        require_valid(self, call_of(self, descs.data()));

        const auto* keep = expressions.constant(self.keep);
        for (int32_t i = 0; i < kOutputs; ++i) {
            outputs[i].nbDims = i == 0 ? 3 : 2;
            outputs[i].d[0] = batch;
            outputs[i].d[1] = i == kOutputs - 1 ? tokens : keep;
        }
        outputs[0].d[2] = dim;
    });
}

bool Plugin::supportsFormatCombination(int32_t position, const nvinfer1::DynamicPluginTensorDesc* tensors,
                                       int32_t input_count, int32_t) noexcept {
    const nvinfer1::PluginTensorDesc& asked = tensors[position].desc;
    const DataType tokens = tensors[0].desc.type;
    if (asked.format != nvinfer1::TensorFormat::kLINEAR) return false;
    if (position == 0) return is_float(asked.type);
    if (position < input_count) {
        const std::vector<Signal> signals = definition_->method->signals();
        const auto which = static_cast<size_t>(position - 1);
        return which < signals.size() && fits(signals[which].dtype, asked.type, tokens);
    }
    switch (position - input_count) {
        case 0: return asked.type == tokens;
        case 2: return asked.type == kSizes;
        default: return asked.type == kIndices;
    }
}

int32_t Plugin::configurePlugin(const nvinfer1::DynamicPluginTensorDesc* inputs, int32_t input_count,
                                const nvinfer1::DynamicPluginTensorDesc*, int32_t) noexcept {
    return guarded([&] {
        require_inputs(*definition_, definition_->method->signals(), input_count);
        require_valid(*definition_, call_of(*definition_, inputs));
    });
}

size_t Plugin::getWorkspaceSize(const nvinfer1::DynamicPluginTensorDesc* inputs, int32_t,
                                const nvinfer1::DynamicPluginTensorDesc*, int32_t) const noexcept {
    size_t bytes = 0;
    guarded([&] {
        const Call call = call_of(*definition_, inputs);
        require_status(definition_->method->workspace(call, &bytes), *definition_, call.shape);
    });
    return bytes;
}

int32_t Plugin::onShapeChange(const nvinfer1::PluginTensorDesc* inputs, int32_t input_count,
                              const nvinfer1::PluginTensorDesc*, int32_t) noexcept {
    return guarded([&] {
        require_inputs(*definition_, definition_->method->signals(), input_count);
        require_valid(*definition_, call_of(*definition_, inputs));
    });
}

int32_t Plugin::enqueue(const nvinfer1::PluginTensorDesc* input_descs, const nvinfer1::PluginTensorDesc*,
                        const void* const* inputs, void* const* outputs, void* workspace,
                        cudaStream_t stream) noexcept {
    return guarded([&] {
        const Definition& self = *definition_;
        Call call = call_of(self, input_descs);
        call.tokens = inputs[0];
        for (size_t i = 0; i < call.signals.size(); ++i) call.signals[i].data = inputs[i + 1];
        call.outputs = {outputs[0], static_cast<int64_t*>(outputs[1]), static_cast<float*>(outputs[2]),
                        static_cast<int64_t*>(outputs[3])};
        size_t bytes = 0;
        require_status(self.method->workspace(call, &bytes), self, call.shape);
        call.workspace = {workspace, bytes};
        call.stream = stream;
        require_status(self.method->enqueue(call), self, call.shape);
    });
}

}  // namespace tokexport::shell
