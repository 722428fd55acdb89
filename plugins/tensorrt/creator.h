// Makes the plugins of one method, from a node of a graph or from an engine.
#pragma once

#include <NvInferRuntime.h>

#include "method.h"

namespace tokexport::shell {

constexpr const char* kVersion = "1";
constexpr const char* kNamespace = "tokexport";

class Creator : public nvinfer1::IPluginCreatorV3One {
  public:
    Creator(const char* name, MakeMethod make);

    const char* getPluginName() const noexcept override { return name_; }
    const char* getPluginVersion() const noexcept override { return kVersion; }
    const char* getPluginNamespace() const noexcept override { return kNamespace; }
    const nvinfer1::PluginFieldCollection* getFieldNames() noexcept override { return &names_; }

    // Null where an attribute is refused; the reason is in the log.
    nvinfer1::IPluginV3* createPlugin(const char* node, const nvinfer1::PluginFieldCollection* fields,
                                      nvinfer1::TensorRTPhase phase) noexcept override;

  private:
    const char* name_;
    MakeMethod make_;
    std::vector<nvinfer1::PluginField> fields_;
    nvinfer1::PluginFieldCollection names_;
};

}  // namespace tokexport::shell
