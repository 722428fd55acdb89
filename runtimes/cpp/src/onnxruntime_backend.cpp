#include <onnxruntime_cxx_api.h>

#include <algorithm>
#include <array>

#include "rows.h"
#include "tokexport/errors.h"
#include "tokexport/onnxruntime.h"

namespace tokexport {
namespace {

constexpr std::array<std::pair<DType, ONNXTensorElementDataType>, 9> kTypes = {{
    {DType::float32, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT},
    {DType::float16, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16},
    {DType::bfloat16, ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16},
    {DType::float64, ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE},
    {DType::int64, ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64},
    {DType::int32, ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32},
    {DType::int8, ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8},
    {DType::uint8, ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8},
    {DType::boolean, ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL},
}};

std::string first_line(const Ort::Exception& error) {
    const std::string text = error.what();
    return text.substr(0, text.find('\n'));
}

// An output in the memory of ONNX Runtime, without a copy.
class OrtBuffer : public Buffer {
  public:
    explicit OrtBuffer(Ort::Value value) : value_(std::move(value)) {}
    const void* host() const override { return value_.GetTensorRawData(); }
    bool write(const Buffer& values, const Rows& rows) override {
        copy_rows(value_.GetTensorMutableRawData(), values, rows);
        return true;
    }
    Ort::Value& value() { return value_; }

  private:
    Ort::Value value_;
};

// ONNX Runtime does not write to inputs, though its interface takes them as writable.
Ort::Value value_of(const Tensor& tensor, const OrtMemoryInfo* memory) {
    return Ort::Value::CreateTensor(memory, const_cast<void*>(tensor.host()), tensor.bytes(), tensor.shape().data(),
                                    tensor.shape().size(), kTypes[static_cast<std::size_t>(tensor.dtype())].second);
}

// An output and its buffers, which are allocated once: one that nobody holds any more is written again.
class Output {
  public:
    Output(std::string name, Ort::TypeInfo info) : name_(std::move(name)) {
        if (info.GetONNXType() != ONNX_TYPE_TENSOR) throw GraphError("output " + name_ + " is no tensor");
        const auto tensor = info.GetTensorTypeAndShapeInfo();
        shape_ = tensor.GetShape();
        type_ = tensor.GetElementType();
        fixed_ = std::all_of(shape_.begin(), shape_.end(), [](std::int64_t axis) { return axis >= 0; });
    }

    const std::string& name() const { return name_; }

    void bind(Ort::IoBinding& binding, const OrtMemoryInfo* memory, OrtAllocator* allocator) {
        if (!fixed_) return binding.BindOutput(name_.c_str(), memory);
        bound_ = free(allocator);
        binding.BindOutput(name_.c_str(), bound_->value());
    }

    // The tensor of a run; `value` is what ONNX Runtime bound.
    Tensor take(Ort::Value value) {
        auto buffer = fixed_ ? std::move(bound_) : std::make_shared<OrtBuffer>(std::move(value));
        if (!buffer->value().IsTensor()) throw GraphError("output " + name_ + " is no tensor");
        const auto info = buffer->value().GetTensorTypeAndShapeInfo();
        const auto type = std::find_if(kTypes.begin(), kTypes.end(),
                                       [&](const auto& pair) { return pair.second == info.GetElementType(); });
        if (type == kTypes.end()) throw GraphError("output " + name_ + " has a type that bundles do not use");
        return Tensor(type->first, info.GetShape(), std::move(buffer));
    }

  private:
    std::shared_ptr<OrtBuffer> free(OrtAllocator* allocator) {
        for (const auto& buffer : buffers_)
            if (buffer.use_count() == 1) return buffer;
        auto made = std::make_shared<OrtBuffer>(
            Ort::Value::CreateTensor(allocator, shape_.data(), shape_.size(), type_));
        // What a program keeps of many runs is its own affair.
        if (buffers_.size() < kBuffers) buffers_.push_back(made);
        return made;
    }

    // One for a cache that the next run reads, and one that it writes.
    static constexpr std::size_t kBuffers = 2;

    std::string name_;
    std::vector<std::int64_t> shape_;
    ONNXTensorElementDataType type_;
    bool fixed_;
    std::vector<std::shared_ptr<OrtBuffer>> buffers_;
    std::shared_ptr<OrtBuffer> bound_;
};

class OrtGraph : public Graph {
  public:
    OrtGraph(Ort::Session session, std::string role, std::vector<Output> outputs)
        : session_(std::move(session)), binding_(session_), role_(std::move(role)), outputs_(std::move(outputs)) {}

    Tensors run(Tensors inputs) override {
        try {
            // Binding an input also copies it to the device of a provider, so it is bound for each run.
            for (const auto& [name, tensor] : inputs) binding_.BindInput(name.c_str(), value_of(tensor, memory_));
            for (Output& output : outputs_) output.bind(binding_, memory_, allocator_);
            session_.Run(Ort::RunOptions(nullptr), binding_);
            binding_.SynchronizeOutputs();
            auto values = binding_.GetOutputValues();
            binding_.ClearBoundOutputs();
            Tensors found;
            for (std::size_t i = 0; i < outputs_.size(); ++i)
                found[outputs_[i].name()] = outputs_[i].take(std::move(values[i]));
            return found;
        } catch (const Ort::Exception& error) {
            binding_.ClearBoundOutputs();
            throw GraphError("ONNX Runtime failed: " + first_line(error), role_);
        }
    }

  private:
    Ort::Session session_;
    Ort::IoBinding binding_;
    std::string role_;
    std::vector<Output> outputs_;
    Ort::AllocatorWithDefaultOptions allocator_;
    Ort::MemoryInfo memory_ = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
};

class OrtBackend : public Backend {
  public:
    explicit OrtBackend(OnnxRuntimeOptions options) : options_(std::move(options)) {
        // Its warnings are about nodes that its own optimizer removes; errors are thrown as exceptions.
        env_ = Ort::Env(ORT_LOGGING_LEVEL_ERROR, "tokexport");
        settings_ = Ort::SessionOptions();
        // Each graph has threads of its own, which would spin for some time after it ran, on the cores of the next graph.
        settings_.AddConfigEntry("session.force_spinning_stop", "1");
        if (options_.threads > 0) settings_.SetIntraOpNumThreads(options_.threads);
        for (const std::string& provider : options_.providers) add(provider);
    }

    std::unique_ptr<Graph> load(const Bundle& bundle, const Variant& variant, const std::string& role) override {
        const std::string path = bundle.model_path(role, options_.form, variant.name).string();
        const GraphRecord& record = variant.graphs.at(role);
        const auto files = bundle.graph_files(role, options_.form, variant.name);
        try {
            Ort::Session session(env_, path.c_str(), settings_);
            bundle.check_held(files);
            Ort::AllocatorWithDefaultOptions allocator;
            std::vector<std::string> inputs, outputs;
            std::vector<Output> bound;
            for (std::size_t i = 0; i < session.GetInputCount(); ++i)
                inputs.push_back(session.GetInputNameAllocated(i, allocator).get());
            for (std::size_t i = 0; i < session.GetOutputCount(); ++i)
                outputs.push_back(session.GetOutputNameAllocated(i, allocator).get());
            check_names(role, record.inputs, inputs, path);
            check_names(role, record.outputs, outputs, path);
            for (const auto& [name, tensor] : record.outputs) {
                const auto at = std::find(outputs.begin(), outputs.end(), tensor.name) - outputs.begin();
                bound.emplace_back(tensor.name, session.GetOutputTypeInfo(static_cast<std::size_t>(at)));
            }
            return std::make_unique<OrtGraph>(std::move(session), role, std::move(bound));
        } catch (const Ort::Exception& error) {
            bundle.check_held(files);
            throw GraphError("ONNX Runtime cannot load it: " + first_line(error), path,
                             "Check the bundle with `tokexport verify`.");
        }
    }

  private:
    void add(const std::string& provider) {
        try {
            if (provider == "CUDA")
                settings_.AppendExecutionProvider_CUDA(OrtCUDAProviderOptions{});
            else
                settings_.AppendExecutionProvider(provider);
        } catch (const Ort::Exception& error) {
            throw MissingError("this ONNX Runtime has no provider " + provider + ": " + first_line(error), "",
                               "Install an ONNX Runtime that was built with it.");
        }
    }

    OnnxRuntimeOptions options_;
    Ort::Env env_{nullptr};
    Ort::SessionOptions settings_{nullptr};
};

}  // namespace

std::unique_ptr<Backend> onnxruntime_backend(const OnnxRuntimeOptions& options) {
    if (options.form == "plugin")
        throw RequestError("ONNX Runtime cannot run the plugin form", "", "Use the form portable.");
    // An older library returns no API of this version: every call would dereference null.
    if (OrtGetApiBase()->GetApi(ORT_API_VERSION) == nullptr)
        throw MissingError(std::string("this ONNX Runtime is ") + OrtGetApiBase()->GetVersionString() +
                               ", and the library was built for 1." + std::to_string(ORT_API_VERSION) + " or later",
                           "", "Install a later one, or build tokexport with its headers.");
    return std::make_unique<OrtBackend>(options);
}

}  // namespace tokexport
