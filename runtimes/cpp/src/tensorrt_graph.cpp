#include "tensorrt_graph.h"

#include <cstring>
#include <mutex>

#include "tokexport/errors.h"

namespace tokexport {
namespace {

// A program that keeps every output makes each run use new buffers: beyond this many graphs, no more are captured.
constexpr std::size_t kMostGraphs = 16;

DType dtype_of(nvinfer1::DataType type, const std::string& tensor, const std::string& where) {
    switch (type) {
        case nvinfer1::DataType::kFLOAT: return DType::float32;
        case nvinfer1::DataType::kHALF: return DType::float16;
        case nvinfer1::DataType::kBF16: return DType::bfloat16;
        case nvinfer1::DataType::kINT64: return DType::int64;
        case nvinfer1::DataType::kINT32: return DType::int32;
        case nvinfer1::DataType::kINT8: return DType::int8;
        case nvinfer1::DataType::kUINT8: return DType::uint8;
        case nvinfer1::DataType::kBOOL: return DType::boolean;
        default: throw GraphError("tensor " + tensor + " has a type that bundles do not use", where);
    }
}

// An output that stays on the device until it is read. While it lives, only its owner writes to it.
class DeviceBuffer : public Buffer {
  public:
    DeviceBuffer(std::shared_ptr<CudaMemory> memory, std::size_t bytes, std::shared_ptr<CudaStream> stream)
        : memory_(std::move(memory)), bytes_(bytes), stream_(std::move(stream)) {}

    const void* host() const override {
        const std::lock_guard<std::mutex> lock(mutex_);
        if (!copied_) {
            copy_.resize(bytes_);
            stream_->copy(copy_.data(), memory_->get(), bytes_, cudaMemcpyDeviceToHost);
            stream_->synchronize();
            copied_ = true;
        }
        return copy_.data();
    }

    bool write(const Buffer& values, const Rows& rows) override {
        const std::lock_guard<std::mutex> lock(mutex_);
        copied_ = false;
        const auto* there = dynamic_cast<const DeviceBuffer*>(&values);
        const bool stays = there != nullptr && there->stream() == stream();
        stream_->copy_rows(static_cast<std::byte*>(device()) + rows.begin, rows.pitch,
                           stays ? there->device() : values.host(), rows.bytes, rows.count,
                           stays ? cudaMemcpyDeviceToDevice : cudaMemcpyHostToDevice);
        return true;
    }

    const CudaStream* stream() const { return stream_.get(); }
    void* device() const { return memory_->get(); }

  private:
    std::shared_ptr<CudaMemory> memory_;
    std::size_t bytes_;
    std::shared_ptr<CudaStream> stream_;
    mutable std::mutex mutex_;
    mutable bool copied_ = false;
    mutable std::vector<std::byte> copy_;
};

}  // namespace

// An input or output, its page-locked buffer on the host, and those on the device: a second one for an output that is
// an input of the next run.
struct TensorRtGraph::Port {
    std::string name;
    bool is_input;
    DType dtype;
    std::vector<std::int64_t> shape;
    std::size_t bytes;
    std::unique_ptr<CudaMemory> pinned;
    std::vector<std::shared_ptr<CudaMemory>> device;

    // A buffer without another owner.
    std::shared_ptr<CudaMemory> free() {
        for (const auto& memory : device)
            if (memory.use_count() == 1) return memory;
        device.push_back(std::make_shared<CudaMemory>(CudaMemory::Kind::device, bytes));
        return device.back();
    }
};

TensorRtGraph::TensorRtGraph(std::shared_ptr<nvinfer1::ICudaEngine> engine, std::shared_ptr<CudaStream> stream,
                             std::string name, bool capture, std::function<std::string()> reason)
    : engine_(std::move(engine)),
      stream_(std::move(stream)),
      name_(std::move(name)),
      reason_(std::move(reason)),
      not_captured_(capture ? "" : "it was switched off"),
      context_(engine_->createExecutionContext()) {
    if (!context_) throw GraphError("TensorRT gives no execution context", name_);
    for (int i = 0; i < engine_->getNbIOTensors(); ++i) {
        const char* const tensor = engine_->getIOTensorName(i);
        const nvinfer1::Dims dims = engine_->getTensorShape(tensor);
        const std::vector<std::int64_t> shape(dims.d, dims.d + std::max(dims.nbDims, 0));
        for (const std::int64_t axis : shape)
            if (axis < 0)
                throw GraphError(std::string("tensor ") + tensor + " has shape " + text_of(shape) +
                                     ", and buffers are allocated once",
                                 name_, "Export it with static shapes.");
        const DType dtype = dtype_of(engine_->getTensorDataType(tensor), tensor, name_);
        const std::size_t bytes = count_of(shape) * bytes_of(dtype);
        const bool is_input = engine_->getTensorIOMode(tensor) == nvinfer1::TensorIOMode::kINPUT;
        ports_.push_back({tensor, is_input, dtype, shape, bytes, nullptr, {}});
        if (!is_input) continue;
        ports_.back().pinned = std::make_unique<CudaMemory>(CudaMemory::Kind::host, bytes);
        ports_.back().free();
    }
    addresses_.resize(ports_.size());
}

TensorRtGraph::~TensorRtGraph() {
    for (const auto& [addresses, graph] : graphs_)
        if (graph != nullptr) cudaGraphExecDestroy(graph);
}

std::vector<std::string> TensorRtGraph::names(bool inputs) const {
    std::vector<std::string> found;
    for (const Port& port : ports_)
        if (port.is_input == inputs) found.push_back(port.name);
    return found;
}

std::vector<std::string> TensorRtGraph::notes() const {
    if (!not_captured_.empty()) return {"no CUDA graph: " + not_captured_};
    if (crowded_) return {"no CUDA graph for some runs: so many of its outputs are held that each run has new buffers"};
    return {};
}

Tensors TensorRtGraph::run(Tensors inputs) {
    Tensors outputs;
    for (std::size_t i = 0; i < ports_.size(); ++i) {
        Port& port = ports_[i];
        void* address = nullptr;
        if (port.is_input) {
            address = feed(port, inputs);
        } else {
            auto memory = port.free();
            address = memory->get();
            outputs[port.name] =
                Tensor(port.dtype, port.shape, std::make_shared<DeviceBuffer>(std::move(memory), port.bytes, stream_));
        }
        if (addresses_[i] != address && !context_->setTensorAddress(port.name.c_str(), address))
            throw GraphError("TensorRT takes no buffer for tensor " + port.name, name_);
        addresses_[i] = address;
    }
    launch();
    // After this the page-locked buffers may be overwritten.
    stream_->synchronize();
    return outputs;
}

// Where an input lies on the device: where it stayed, or where it is copied to.
void* TensorRtGraph::feed(Port& port, const Tensors& inputs) {
    const auto found = inputs.find(port.name);
    if (found == inputs.end() || found->second.dtype() != port.dtype || found->second.shape() != port.shape)
        throw GraphError(
            "input " + port.name + " is " +
                (found == inputs.end() ? "missing" : text_of(found->second.dtype(), found->second.shape())) +
                ", and the engine takes " + text_of(port.dtype, port.shape),
            name_, "Build the engines of this bundle again.");
    const auto* there = dynamic_cast<const DeviceBuffer*>(found->second.buffer().get());
    if (there != nullptr && there->stream() == stream_.get()) return there->device();
    std::memcpy(port.pinned->get(), found->second.host(), port.bytes);
    stream_->copy(port.device[0]->get(), port.pinned->get(), port.bytes, cudaMemcpyHostToDevice);
    return port.device[0]->get();
}

void TensorRtGraph::launch() {
    const auto known = graphs_.find(addresses_);
    if (known == graphs_.end() || !not_captured_.empty()) {
        if (graphs_.size() < kMostGraphs)
            graphs_.emplace(addresses_, nullptr);
        else
            crowded_ = true;
        if (!enqueue()) throw GraphError("TensorRT could not enqueue the engine: " + reason_(), name_);
        return;
    }
    if (known->second == nullptr) {
        known->second = stream_->capture([this] { return enqueue(); }, not_captured_);
        if (known->second == nullptr) {
            // An engine that cannot be captured is enqueued directly.
            launch();
            return;
        }
    }
    check(cudaGraphLaunch(known->second, stream_->get()), "cudaGraphLaunch");
}

bool TensorRtGraph::enqueue() { return context_->enqueueV3(stream_->get()); }

}  // namespace tokexport
