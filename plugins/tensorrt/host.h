// The TensorRT libraries of this process. We link to none: the same build runs under TensorRT, its lean runtime and
// TensorRT-RTX, loaded with or without RTLD_GLOBAL, and its kernels run under none of them.
#pragma once

#include <NvInferRuntime.h>

#include <string>

namespace tokexport::shell {

// To the logger of every loaded TensorRT of our headers' major version, else to stderr.
void log_error(const std::string& message) noexcept;

// Puts a creator into the process-wide registry of each of them, or takes it out again.
void register_creator(nvinfer1::IPluginCreatorInterface& creator, const char* plugin_namespace);
void deregister_creator(const nvinfer1::IPluginCreatorInterface& creator);

}  // namespace tokexport::shell
