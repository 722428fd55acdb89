#include <onnxruntime_cxx_api.h>

#include <algorithm>
#include <array>

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

  private:
    Ort::Value value_;
};

Tensor tensor_of(Ort::Value value, const std::string& name) {
    if (!value.IsTensor()) throw GraphError("output " + name + " is no tensor");
    const auto info = value.GetTensorTypeAndShapeInfo();
    const auto type = std::find_if(kTypes.begin(), kTypes.end(),
                                   [&](const auto& pair) { return pair.second == info.GetElementType(); });
    if (type == kTypes.end()) throw GraphError("output " + name + " has a type that bundles do not use");
    return Tensor(type->first, info.GetShape(), std::make_shared<OrtBuffer>(std::move(value)));
}

// ONNX Runtime does not write to inputs, though its interface takes them as writable.
Ort::Value value_of(const Tensor& tensor, const OrtMemoryInfo* memory) {
    return Ort::Value::CreateTensor(memory, const_cast<void*>(tensor.host()), tensor.bytes(), tensor.shape().data(),
                                    tensor.shape().size(), kTypes[static_cast<std::size_t>(tensor.dtype())].second);
}

class OrtGraph : public Graph {
  public:
    OrtGraph(Ort::Session session, std::string role, std::vector<std::string> outputs)
        : session_(std::move(session)), role_(std::move(role)), outputs_(std::move(outputs)) {
        for (const std::string& name : outputs_) output_names_.push_back(name.c_str());
    }

    Tensors run(Tensors inputs) override {
        std::vector<const char*> names;
        std::vector<Ort::Value> values;
        try {
            for (const auto& [name, tensor] : inputs) {
                names.push_back(name.c_str());
                values.push_back(value_of(tensor, memory_));
            }
            auto results = session_.Run(Ort::RunOptions(nullptr), names.data(), values.data(), values.size(),
                                        output_names_.data(), output_names_.size());
            Tensors found;
            for (std::size_t i = 0; i < results.size(); ++i)
                found[outputs_[i]] = tensor_of(std::move(results[i]), outputs_[i]);
            return found;
        } catch (const Ort::Exception& error) {
            throw GraphError("ONNX Runtime failed: " + first_line(error), role_);
        }
    }

  private:
    Ort::Session session_;
    std::string role_;
    std::vector<std::string> outputs_;
    std::vector<const char*> output_names_;
    Ort::MemoryInfo memory_ = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
};

class OrtBackend : public Backend {
  public:
    explicit OrtBackend(OnnxRuntimeOptions options) : options_(std::move(options)) {
        // Its warnings are about nodes that its own optimizer removes; errors are thrown as exceptions.
        env_ = Ort::Env(ORT_LOGGING_LEVEL_ERROR, "tokexport");
        settings_ = Ort::SessionOptions();
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
            for (std::size_t i = 0; i < session.GetInputCount(); ++i)
                inputs.push_back(session.GetInputNameAllocated(i, allocator).get());
            for (std::size_t i = 0; i < session.GetOutputCount(); ++i)
                outputs.push_back(session.GetOutputNameAllocated(i, allocator).get());
            check_names(role, record.inputs, inputs, path);
            check_names(role, record.outputs, outputs, path);
            outputs.clear();
            for (const auto& [name, tensor] : record.outputs) outputs.push_back(tensor.name);
            return std::make_unique<OrtGraph>(std::move(session), role, std::move(outputs));
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
