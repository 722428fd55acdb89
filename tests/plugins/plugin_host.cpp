// Stands in for TensorRT: a registry, a logger, and calls of the plugin interfaces for ctypes. The plugin library takes it
// for TensorRT by its name, libnvinfer*, and by the functions that it exports.
#include <NvInferRuntime.h>
#include <dlfcn.h>

#include <deque>
#include <memory>
#include <string>
#include <vector>

using namespace nvinfer1;

namespace {

std::string logged;

struct Logger : ILogger {
    void log(Severity, const char* message) noexcept override { logged += std::string(message) + "\n"; }
};

std::vector<IPluginCreatorInterface*> registered;

struct Registry : IPluginRegistry {
    ~Registry() noexcept override = default;
#if NV_TENSORRT_MAJOR < 11
    bool registerCreator(IPluginCreator&, const char* const) noexcept override { return false; }
    IPluginCreator* const* getPluginCreatorList(int32_t* const) const noexcept override { return nullptr; }
    IPluginCreator* getPluginCreator(const char* const, const char* const, const char* const) noexcept override {
        return nullptr;
    }
    bool deregisterCreator(const IPluginCreator&) noexcept override { return false; }
#endif
    void setErrorRecorder(IErrorRecorder* const) noexcept override {}
    IErrorRecorder* getErrorRecorder() const noexcept override { return nullptr; }
    bool isParentSearchEnabled() const override { return true; }
    void setParentSearchEnabled(const bool) override {}
    PluginLibraryHandle loadLibrary(const char*) noexcept override { return nullptr; }
    void deregisterLibrary(PluginLibraryHandle) noexcept override {}
    bool registerCreator(IPluginCreatorInterface& creator, const char* const) noexcept override {
        registered.push_back(&creator);
        return true;
    }
    IPluginCreatorInterface* const* getAllCreators(int32_t* const) const noexcept override { return nullptr; }
    IPluginCreatorInterface* getCreator(const char* const, const char* const, const char* const) noexcept override {
        return nullptr;
    }
    bool deregisterCreator(const IPluginCreatorInterface& creator) noexcept override {
        for (size_t i = 0; i < registered.size(); ++i)
            if (registered[i] == &creator) return registered.erase(registered.begin() + static_cast<long>(i)), true;
        return false;
    }
    IPluginResource* acquirePluginResource(const char*, IPluginResource*) noexcept override { return nullptr; }
    int32_t releasePluginResource(const char*) noexcept override { return 0; }
#if NV_TENSORRT_MAJOR * 100 + NV_TENSORRT_MINOR >= 1006
    IPluginCreatorInterface* const* getAllCreatorsRecursive(int32_t* const) noexcept override { return nullptr; }
#endif
};

// A dimension that is known, or -1.
struct Dimension : IDimensionExpr, apiv::VDimensionExpr {
    int64_t value;

    explicit Dimension(int64_t value_) : value(value_) { mImpl = this; }
    ~Dimension() noexcept override = default;
    bool isConstant() const override { return value >= 0; }
    int64_t getConstantValue() const override { return value; }
    bool isSizeTensor() const override { return false; }
};

struct Expressions : IExprBuilder, apiv::VExprBuilder {
    std::deque<Dimension> made;

    Expressions() { mImpl = this; }
    ~Expressions() noexcept override = default;
    const IDimensionExpr* constant(int64_t value) override { return &made.emplace_back(value); }
    const IDimensionExpr* operation(DimensionOperation, const IDimensionExpr&, const IDimensionExpr&) override {
        return nullptr;
    }
    const IDimensionExpr* declareSizeTensor(int32_t, const IDimensionExpr&, const IDimensionExpr&) override {
        return nullptr;
    }
};

std::string named(const std::vector<IPluginCreatorInterface*>& creators) {
    std::string out;
    for (auto* creator : creators) {
        auto* one = static_cast<IPluginCreatorV3One*>(creator);
        out += std::string(one->getPluginName()) + " " + one->getPluginVersion() + " " + one->getPluginNamespace() + "\n";
    }
    return out;
}

template <class T>
T* capability(void* plugin, PluginCapabilityType type) {
    return static_cast<T*>(static_cast<IPluginV3*>(plugin)->getCapabilityInterface(type));
}

IPluginV3OneBuild* build(void* plugin) { return capability<IPluginV3OneBuild>(plugin, PluginCapabilityType::kBUILD); }

IPluginV3OneRuntime* runtime(void* plugin) {
    return capability<IPluginV3OneRuntime>(plugin, PluginCapabilityType::kRUNTIME);
}

}  // namespace

// A tensor as the tests describe it: type and format by TensorRT's numbers.
struct HostTensor {
    int32_t type, format, rank;
    int64_t dims[3];
};

namespace {

std::vector<PluginTensorDesc> descs(const HostTensor* tensors, int32_t count) {
    std::vector<PluginTensorDesc> out(static_cast<size_t>(count));
    for (int32_t i = 0; i < count; ++i) {
        out[i].type = static_cast<DataType>(tensors[i].type);
        out[i].format = static_cast<TensorFormat>(tensors[i].format);
        out[i].dims.nbDims = tensors[i].rank;
        for (int32_t axis = 0; axis < tensors[i].rank; ++axis) out[i].dims.d[axis] = tensors[i].dims[axis];
    }
    return out;
}

std::vector<DynamicPluginTensorDesc> dynamic(const HostTensor* tensors, int32_t count) {
    std::vector<DynamicPluginTensorDesc> out;
    for (const PluginTensorDesc& desc : descs(tensors, count)) out.push_back({desc, desc.dims, desc.dims, desc.dims});
    return out;
}

}  // namespace

extern "C" {

IPluginRegistry* getPluginRegistry() noexcept {
    static Registry registry;
    return &registry;
}

ILogger* getLogger() noexcept {
    static Logger logger;
    return &logger;
}

int32_t getInferLibVersion() noexcept { return NV_TENSORRT_MAJOR * 10000; }

const char* host_log() {
    static std::string taken;
    taken = logged;
    logged.clear();
    return taken.c_str();
}

const char* host_registered() {
    static std::string names;
    names = named(registered);
    return names.c_str();
}

std::vector<IPluginCreatorInterface*>* host_creators(void* library) {
    const auto get = reinterpret_cast<IPluginCreatorInterface* const* (*)(int32_t&)>(dlsym(library, "getCreators"));
    int32_t count = 0;
    auto* const* creators = get(count);
    return new std::vector<IPluginCreatorInterface*>(creators, creators + count);
}

const char* host_names(std::vector<IPluginCreatorInterface*>* creators) {
    static std::string names;
    names = named(*creators);
    return names.c_str();
}

const char* host_fields(std::vector<IPluginCreatorInterface*>* creators, int32_t which) {
    static std::string names;
    names.clear();
    const auto* fields = static_cast<IPluginCreatorV3One*>((*creators)[which])->getFieldNames();
    for (int32_t i = 0; i < fields->nbFields; ++i) names += std::string(fields->fields[i].name) + "\n";
    return names.c_str();
}

void* host_create(std::vector<IPluginCreatorInterface*>* creators, int32_t which, const char* node,
                  const PluginField* fields, int32_t count, int32_t phase) {
    const PluginFieldCollection given{count, fields};
    return static_cast<IPluginCreatorV3One*>((*creators)[which])
        ->createPlugin(node, &given, static_cast<TensorRTPhase>(phase));
}

void* host_clone(void* plugin) { return static_cast<IPluginV3*>(plugin)->clone(); }
void* host_attached(void* plugin) { return runtime(plugin)->attachToContext(nullptr); }
void host_destroy(void* plugin) { delete static_cast<IPluginV3*>(plugin); }

const char* host_core(void* plugin) {
    static std::string text;
    const auto* core = capability<IPluginV3OneCore>(plugin, PluginCapabilityType::kCORE);
    text = std::string(core->getPluginName()) + " " + core->getPluginVersion() + " " + core->getPluginNamespace();
    return text.c_str();
}

const PluginField* host_stored(void* plugin, int32_t* count) {
    const PluginFieldCollection* fields = runtime(plugin)->getFieldsToSerialize();
    *count = fields->nbFields;
    return fields->fields;
}

int32_t host_types(void* plugin, const int32_t* inputs, int32_t count, int32_t* outputs) {
    return build(plugin)->getOutputDataTypes(reinterpret_cast<DataType*>(outputs), build(plugin)->getNbOutputs(),
                                             reinterpret_cast<const DataType*>(inputs), count);
}

int32_t host_shapes(void* plugin, const HostTensor* inputs, int32_t count, HostTensor* outputs) {
    Expressions expressions;
    std::vector<DimsExprs> in(static_cast<size_t>(count)), out(4);
    for (int32_t i = 0; i < count; ++i) {
        in[i].nbDims = inputs[i].rank;
        for (int32_t axis = 0; axis < inputs[i].rank; ++axis) in[i].d[axis] = expressions.constant(inputs[i].dims[axis]);
    }
    const int32_t status = build(plugin)->getOutputShapes(in.data(), count, nullptr, 0, out.data(), 4, expressions);
    for (int32_t i = 0; status == 0 && i < 4; ++i) {
        outputs[i].rank = out[i].nbDims;
        for (int32_t axis = 0; axis < out[i].nbDims; ++axis)
            outputs[i].dims[axis] = out[i].d[axis]->isConstant() ? out[i].d[axis]->getConstantValue() : -1;
    }
    return status;
}

bool host_supports(void* plugin, int32_t position, const HostTensor* tensors, int32_t inputs) {
    const auto all = dynamic(tensors, inputs + 4);
    return build(plugin)->supportsFormatCombination(position, all.data(), inputs, 4);
}

int32_t host_configure(void* plugin, const HostTensor* tensors, int32_t inputs) {
    const auto all = dynamic(tensors, inputs + 4);
    return build(plugin)->configurePlugin(all.data(), inputs, all.data() + inputs, 4);
}

uint64_t host_workspace(void* plugin, const HostTensor* tensors, int32_t inputs) {
    const auto all = dynamic(tensors, inputs + 4);
    return build(plugin)->getWorkspaceSize(all.data(), inputs, all.data() + inputs, 4);
}

int32_t host_enqueue(void* plugin, const HostTensor* tensors, int32_t inputs, const void* const* in, void* const* out,
                     void* workspace) {
    const auto all = descs(tensors, inputs + 4);
    const int32_t status = runtime(plugin)->onShapeChange(all.data(), inputs, all.data() + inputs, 4);
    return status != 0 ? status : runtime(plugin)->enqueue(all.data(), all.data() + inputs, in, out, workspace, nullptr);
}

}  // extern "C"
