// Runs the engines of a bundle, which `tokexport build` made on a machine like this one, with TensorRT 10.3 or later.
#pragma once

#include <memory>
#include <string>

#include "tokexport/backend.h"

namespace tokexport {

struct TensorRtOptions {
    std::string device;          // whose engines; "": those that this machine can run
    std::string plugin_library;  // "": the one that the environment variable TOKEXPORT_PLUGINS names
    bool cuda_graphs = true;     // false: launch every kernel by itself
};

// Buffers are allocated once, work is captured in CUDA graphs (an engine that cannot be captured launches its kernels
// one by one, which Session::notes() tells), and a KV cache stays on the GPU between runs. The current CUDA device is
// used. MissingError: no GPU, no engines, or no plugin library that an engine needs.
//
// Types are not compared here, as Python does at a first load of what was built elsewhere: an engine of TensorRT is
// built on the GPU that it is for, where its layers are compared with the graph's types, and the sidecar says so. One
// whose sidecar does not is refused.
std::unique_ptr<Backend> tensorrt_backend(const TensorRtOptions& options = {});

}  // namespace tokexport
