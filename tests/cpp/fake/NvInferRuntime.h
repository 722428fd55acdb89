// The part of TensorRT's interface that the backend calls, over one toy engine: float image [1, 3, 2, 2] and past [2]
// -> out [1, 2, 1], past plus the first two values of the image. Its plan is the text "toy".
#pragma once

#include <cuda_runtime_api.h>

#include <array>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>

namespace nvinfer1 {

struct Dims {
    std::int32_t nbDims;
    std::int64_t d[8];
};
enum class DataType { kFLOAT, kHALF, kINT8, kINT32, kBOOL, kUINT8, kFP8, kBF16, kINT64 };
enum class TensorIOMode { kNONE, kINPUT, kOUTPUT };

class ILogger {
  public:
    enum class Severity { kINTERNAL_ERROR, kERROR, kWARNING };
    virtual ~ILogger() = default;
    virtual void log(Severity severity, const char* message) noexcept = 0;
};

class IExecutionContext {
  public:
    bool setTensorAddress(const char* name, void* address) {
        addresses_[name] = static_cast<float*>(address);
        return true;
    }
    bool enqueueV3(cudaStream_t stream) {
        if (!fake.enqueues) return false;
        ++fake.enqueued;
        const auto work = [at = addresses_] {
            for (int i : {0, 1}) at.at("out")[i] = at.at("past")[i] + at.at("image")[i];
        };
        if (stream->captured != nullptr)
            stream->captured->push_back(work);
        else
            work();
        return true;
    }

  private:
    std::map<std::string, float*> addresses_;
};

class ICudaEngine {
  public:
    IExecutionContext* createExecutionContext() { return new IExecutionContext; }
    int getNbIOTensors() const { return 3; }
    const char* getIOTensorName(int i) const { return std::array{"image", "past", "out"}[i]; }
    Dims getTensorShape(std::string_view name) const {
        return name == "image" ? Dims{4, {1, 3, 2, 2}} : Dims{3, {1, 2, 1}};
    }
    DataType getTensorDataType(const char*) const { return DataType::kFLOAT; }
    TensorIOMode getTensorIOMode(std::string_view name) const {
        return name == "out" ? TensorIOMode::kOUTPUT : TensorIOMode::kINPUT;
    }
};

class IPluginRegistry {
  public:
    const char* loadLibrary(const char* path) {
        fake.libraries.push_back(path);
        return fake.has_plugin ? path : nullptr;
    }
    const void* getCreator(const char*, const char*, const char*) {
        return fake.has_plugin && !fake.libraries.empty() ? this : nullptr;
    }
};

class IRuntime {
  public:
    explicit IRuntime(ILogger& log) : log_(log) {}
    ICudaEngine* deserializeCudaEngine(const void* plan, std::size_t bytes) {
        if (std::string_view(static_cast<const char*>(plan), bytes) == "toy") return new ICudaEngine;
        log_.log(ILogger::Severity::kERROR, "that is no toy");
        return nullptr;
    }
    IPluginRegistry& getPluginRegistry() { return registry_; }

  private:
    ILogger& log_;
    IPluginRegistry registry_;
};

inline IRuntime* createInferRuntime(ILogger& log) { return new IRuntime(log); }

}  // namespace nvinfer1

inline int getInferLibVersion() { return 100300; }
