// Runs the engines of a bundle, which `tokexport build` made on a machine like this one, with TensorRT 10.3 or later.
#pragma once

#include <memory>
#include <string>

#include "tokexport/backend.h"

namespace tokexport {

struct TensorRtOptions {
    std::string device;          // device whose engines are run; "": the one that this machine can run
    std::string plugin_library;  // "": the one that the environment variable TOKEXPORT_PLUGINS names
    bool cuda_graphs = true;     // false: launch kernels one by one
};

// Buffers are allocated once, launches are captured in CUDA graphs (an engine that cannot be captured launches its
// kernels one by one, and Session::notes() says so), and KV caches stay on the GPU between runs. The current CUDA
// device is used. MissingError: no GPU, no engines, or no plugin library that an engine needs.
//
// The types of layers are not checked here: TensorRT builds an engine on the GPU that it is for, where they are
// compared with the types of the graph, and the sidecar says so. An engine whose sidecar does not is refused.
std::unique_ptr<Backend> tensorrt_backend(const TensorRtOptions& options = {});

}  // namespace tokexport
