#include "tokexport/tensorrt.h"

#include <NvInferRuntime.h>

#include <cstdlib>
#include <fstream>
#include <iterator>
#include <mutex>
#include <utility>

#include "tensorrt_graph.h"
#include "tokexport/engine.h"
#include "tokexport/errors.h"

namespace tokexport {
namespace {

constexpr const char* kVariable = "TOKEXPORT_PLUGINS";

// Keeps TensorRT's last error message, for our exceptions.
class Log : public nvinfer1::ILogger {
  public:
    void log(Severity severity, const char* message) noexcept override {
        if (severity > Severity::kERROR) return;
        const std::lock_guard<std::mutex> lock(mutex_);
        last_ = message;
    }

    std::string take() {
        const std::lock_guard<std::mutex> lock(mutex_);
        return last_.empty() ? "it gives no reason" : std::exchange(last_, "");
    }

  private:
    std::mutex mutex_;
    std::string last_;
};

// "10.3.0" of 100300.
std::string version_here() {
    const int number = getInferLibVersion();
    return std::to_string(number / 10000) + "." + std::to_string(number / 100 % 100) + "." +
           std::to_string(number % 100);
}

class TensorRtBackend : public Backend {
  public:
    explicit TensorRtBackend(TensorRtOptions options)
        : options_(std::move(options)), capability_(compute_capability()) {
        stream_ = std::make_shared<CudaStream>();
        // A graph may outlive the backend, and its runtime writes to the log.
        runtime_.reset(nvinfer1::createInferRuntime(*log_),
                       [log = log_](nvinfer1::IRuntime* made) { delete made; });
        if (!runtime_)
            throw MissingError("TensorRT does not start: " + log_->take(), "", "`tokexport doctor` says why.");
    }

    std::unique_ptr<Graph> load(const Bundle& bundle, const Variant& variant, const std::string& role) override {
        if (device_.empty())
            device_ = choose_device(bundle, variant.name, options_.device, version_here(), capability_);
        const EngineRecord record = read_engine(bundle, device_, variant.name, role);
        const auto path = check_engine(bundle, record, version_here(), capability_);
        offer(record);
        std::ifstream file(path, std::ios::binary);
        const std::vector<char> plan{std::istreambuf_iterator<char>(file), {}};
        // The engine needs the runtime that made it.
        const std::shared_ptr<nvinfer1::ICudaEngine> engine(
            runtime_->deserializeCudaEngine(plan.data(), plan.size()),
            [runtime = runtime_](nvinfer1::ICudaEngine* made) { delete made; });
        if (!engine)
            throw GraphError("TensorRT " + version_here() + " cannot load the engine: " + log_->take(), path.string(),
                             "Build it again here: tokexport build " + bundle.path().string());
        auto graph = std::make_unique<TensorRtGraph>(engine, stream_, path.string(), options_.cuda_graphs,
                                                     [log = log_] { return log->take(); });
        check_names(role, variant.graphs.at(role).inputs, graph->names(true), path.string());
        check_names(role, variant.graphs.at(role).outputs, graph->names(false), path.string());
        return graph;
    }

  private:
    // Loads the plugins of an engine.
    void offer(const EngineRecord& record) {
        for (const std::string& name : record.plugins) {
            if (is_known(name)) continue;
            const std::string library = library_of(record);
            if (runtime_->getPluginRegistry().loadLibrary(library.c_str()) == nullptr || !is_known(name))
                throw MissingError("TensorRT " + version_here() + " finds no " + name + " in the plugin library",
                                   library, "Build it again with the headers of that version: tokexport plugins build");
        }
    }

    bool is_known(const std::string& name) {
        return runtime_->getPluginRegistry().getCreator(name.c_str(), "1", "tokexport") != nullptr;
    }

    std::string library_of(const EngineRecord& record) const {
        const char* const named = std::getenv(kVariable);
        const std::string library = !options_.plugin_library.empty() ? options_.plugin_library : named ? named : "";
        std::error_code error;
        if (library.empty() || !std::filesystem::is_regular_file(library, error))
            throw MissingError(
                library.empty()
                    ? "the engine needs the plugin " + record.plugins.front() + ", and no plugin library was named"
                    : "there is no plugin library " + library,
                "graph " + record.role,
                std::string("Run: tokexport plugins build && export ") + kVariable + "=$(tokexport plugins path)");
        return library;
    }

    TensorRtOptions options_;
    std::string capability_, device_;
    std::shared_ptr<Log> log_ = std::make_shared<Log>();
    std::shared_ptr<CudaStream> stream_;
    std::shared_ptr<nvinfer1::IRuntime> runtime_;
};

}  // namespace

std::unique_ptr<Backend> tensorrt_backend(const TensorRtOptions& options) {
    return std::make_unique<TensorRtBackend>(options);
}

}  // namespace tokexport
