// Runs a bundle with ONNX Runtime, on the CPU or through one of its execution providers.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "tokexport/backend.h"

namespace tokexport {

struct OnnxRuntimeOptions {
    std::string form = "portable";       // or inlined; ONNX Runtime cannot run TensorRT plugins
    int threads = 0;                     // inside one operator; 0: one per core
    std::vector<std::string> providers;  // best first, for example "CUDA"; empty: the CPU, which always comes last
};

// RequestError: the plugin form was asked for.
// MissingError: this ONNX Runtime is older than the headers that the library was built with, or lacks a provider.
std::unique_ptr<Backend> onnxruntime_backend(const OnnxRuntimeOptions& options = {});

}  // namespace tokexport
