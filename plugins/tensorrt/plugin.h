// The shell that all methods share: types, shapes, workspace and launch, between TensorRT and the C ABI.
#pragma once

#include <NvInferRuntime.h>

#include <memory>
#include <string>
#include <vector>

#include "method.h"

#if NV_TENSORRT_MAJOR < 10 && !defined(TRT_MAJOR_RTX)
#error "TensorRT before 10 has no IPluginV3. Use the inlined form there: tokexport build --form inlined."
#endif

namespace tokexport::shell {

// What does not change once a plugin is made; its clones share it.
struct Definition {
    Definition(const char* name, Attributes& given, MakeMethod make);

    const char* name;
    std::string label;  // the plugin and its node, for messages
    int32_t keep;
    std::unique_ptr<Method> method;
    std::vector<Attribute> attributes;

    // What an engine stores: a version of how it is stored, and the attributes.
    std::vector<nvinfer1::PluginField> stored;
    nvinfer1::PluginFieldCollection fields;
};

// Throws Refused for an engine whose plugins are stored in another way than this library does it.
void check_stored_version(const std::string& label, const nvinfer1::PluginFieldCollection* fields);

class Plugin : public nvinfer1::IPluginV3,
               public nvinfer1::IPluginV3OneCore,
               public nvinfer1::IPluginV3OneBuild,
               public nvinfer1::IPluginV3OneRuntime {
  public:
    explicit Plugin(std::shared_ptr<const Definition> definition) : definition_(std::move(definition)) {}

    nvinfer1::IPluginCapability* getCapabilityInterface(nvinfer1::PluginCapabilityType type) noexcept override;
    nvinfer1::IPluginV3* clone() noexcept override;

    const char* getPluginName() const noexcept override;
    const char* getPluginVersion() const noexcept override;
    const char* getPluginNamespace() const noexcept override;

    int32_t getNbOutputs() const noexcept override;
    int32_t getOutputDataTypes(nvinfer1::DataType* outputs, int32_t output_count, const nvinfer1::DataType* inputs,
                               int32_t input_count) const noexcept override;
    int32_t getOutputShapes(const nvinfer1::DimsExprs* inputs, int32_t input_count, const nvinfer1::DimsExprs*,
                            int32_t, nvinfer1::DimsExprs* outputs, int32_t output_count,
                            nvinfer1::IExprBuilder& expressions) noexcept override;
    bool supportsFormatCombination(int32_t position, const nvinfer1::DynamicPluginTensorDesc* tensors,
                                   int32_t input_count, int32_t output_count) noexcept override;
    int32_t configurePlugin(const nvinfer1::DynamicPluginTensorDesc* inputs, int32_t input_count,
                            const nvinfer1::DynamicPluginTensorDesc*, int32_t) noexcept override;
    size_t getWorkspaceSize(const nvinfer1::DynamicPluginTensorDesc* inputs, int32_t input_count,
                            const nvinfer1::DynamicPluginTensorDesc*, int32_t) const noexcept override;

    int32_t onShapeChange(const nvinfer1::PluginTensorDesc* inputs, int32_t input_count,
                          const nvinfer1::PluginTensorDesc*, int32_t) noexcept override;
    int32_t enqueue(const nvinfer1::PluginTensorDesc* input_descs, const nvinfer1::PluginTensorDesc*,
                    const void* const* inputs, void* const* outputs, void* workspace,
                    cudaStream_t stream) noexcept override;
    nvinfer1::IPluginV3* attachToContext(nvinfer1::IPluginResourceContext*) noexcept override { return clone(); }
    const nvinfer1::PluginFieldCollection* getFieldsToSerialize() noexcept override { return &definition_->fields; }

  private:
    std::shared_ptr<const Definition> definition_;
};

}  // namespace tokexport::shell
