// One engine, ready to run: its buffers allocated once, its work captured in CUDA graphs and replayed.
#pragma once

#include <NvInferRuntime.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "cuda.h"
#include "tokexport/backend.h"

namespace tokexport {

// The first run with a set of addresses goes straight to the stream, because kernels are loaded at their first launch
// and that cannot be captured; the second is captured; from then on the graph is replayed. Addresses change only where
// an output of a run is an input of the next, as a KV cache is: it goes to and fro between two buffers.
class TensorRtGraph : public Graph {
  public:
    // `reason` gives TensorRT's last word on an error. GraphError: an axis without a fixed length, or a type that no
    // tensor has. MissingError: no memory for its buffers.
    TensorRtGraph(std::shared_ptr<nvinfer1::ICudaEngine> engine, std::shared_ptr<CudaStream> stream, std::string name,
                  bool capture, std::function<std::string()> reason);
    ~TensorRtGraph() override;

    Tensors run(Tensors inputs) override;

    // Why runs are not replayed, where they are not.
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
    bool crowded_ = false;      // runs with more sets of addresses than graphs are kept for
    std::unique_ptr<nvinfer1::IExecutionContext> context_;
    std::vector<Port> ports_;
    std::map<std::vector<void*>, cudaGraphExec_t> graphs_;  // by addresses; null after a first run
    std::vector<void*> addresses_;
};

}  // namespace tokexport
