// One engine, ready to run: buffers are allocated once, its launches are captured in CUDA graphs and replayed.
#pragma once

#include <NvInferRuntime.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "cuda.h"
#include "tokexport/backend.h"

namespace tokexport {

// The first run with a set of addresses is enqueued directly, because kernels are loaded at their first launch and
// that cannot be captured; the second is captured; from then on the graph is replayed. Addresses change only where
// an output of a run is an input of the next, as a KV cache is: it alternates between two buffers.
class TensorRtGraph : public Graph {
  public:
    // `reason` returns TensorRT's last error message. GraphError: an axis without a fixed length, or a type that no
    // tensor has. MissingError: no memory for its buffers.
    TensorRtGraph(std::shared_ptr<nvinfer1::ICudaEngine> engine, std::shared_ptr<CudaStream> stream, std::string name,
                  bool capture, std::function<std::string()> reason);
    ~TensorRtGraph() override;

    Tensors run(Tensors inputs) override;

    // Why runs are not replayed, if they are not.
    std::vector<std::string> notes() const override;

    std::vector<std::string> names(bool inputs) const;

  private:
    struct Port;

    void* feed(Port& port, const Tensors& inputs);
    void launch();
    bool enqueue();

    std::shared_ptr<nvinfer1::ICudaEngine> engine_;
    std::shared_ptr<CudaStream> stream_;
    std::string name_;
    std::function<std::string()> reason_;
    std::string not_captured_;  // why no graph is captured any more; empty while they are
    bool crowded_ = false;      // more sets of addresses than captured graphs are kept
    std::unique_ptr<nvinfer1::IExecutionContext> context_;
    std::vector<Port> ports_;
    std::map<std::vector<void*>, cudaGraphExec_t> graphs_;  // by addresses; null after a first run
    std::vector<void*> addresses_;
};

}  // namespace tokexport
