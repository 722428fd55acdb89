#include "host.h"

#include <dlfcn.h>
#include <link.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <vector>

namespace tokexport::shell {
namespace {

// TensorRT 11 gave its loggers and registries other tables of virtual functions, and TensorRT-RTX 1.7 has them too:
// what one version's headers call crashes in the other. All else that plugins implement or call is the same in each.
bool has_tables_of_our_headers(int32_t version) {
    constexpr int32_t kHeaders = NV_TENSORRT_MAJOR;
    const bool rtx = 10700 <= version && version < 20000;
    return version / 10000 == kHeaders || (rtx && kHeaders == 11);
}

// The walk over libraries holds a lock of the loader, so on the way nothing is looked up.
int note_tensorrt(dl_phdr_info* info, size_t, void* paths) {
    const char* slash = std::strrchr(info->dlpi_name, '/');
    const char* name = slash == nullptr ? info->dlpi_name : slash + 1;
    for (const char* prefix : {"libnvinfer", "libtensorrt"})
        if (std::strncmp(name, prefix, std::strlen(prefix)) == 0)
            static_cast<std::vector<std::string>*>(paths)->emplace_back(info->dlpi_name);
    return 0;
}

std::vector<std::string> loaded_tensorrts() {
    std::vector<std::string> paths;
    dl_iterate_phdr(note_tensorrt, &paths);
    return paths;
}

// Some programs, polygraphy for one, open their plugins before TensorRT. A library that links to it would load it then.
void load_tensorrt() {
    if (!loaded_tensorrts().empty()) return;
    dlopen(("libnvinfer.so." + std::to_string(NV_TENSORRT_MAJOR)).c_str(), RTLD_LAZY);
    if (has_tables_of_our_headers(10700)) dlopen("libtensorrt_rtx.so.1", RTLD_LAZY);
}

// body(what the function `symbol` returns) for each loaded TensorRT that we can call, once.
template <class T, class Body>
void each_tensorrt(const char* symbol, Body body) {
    std::vector<T*> seen;
    for (const std::string& path : loaded_tensorrts()) {
        void* library = dlopen(path.c_str(), RTLD_LAZY | RTLD_NOLOAD);
        if (library == nullptr) continue;
        // A library that depends on TensorRT finds its functions too.
        const auto get = reinterpret_cast<T* (*)()>(dlsym(library, symbol));
        const auto version = reinterpret_cast<int32_t (*)()>(dlsym(library, "getInferLibVersion"));
        if (get != nullptr && version != nullptr && has_tables_of_our_headers(version())) {
            T* object = get();
            const bool fresh = object != nullptr && std::find(seen.begin(), seen.end(), object) == seen.end();
            if (fresh) body(*seen.emplace_back(object));
        }
        dlclose(library);
    }
}

}  // namespace

void log_error(const std::string& message) noexcept {
    bool told = false;
    each_tensorrt<nvinfer1::ILogger>("getLogger", [&](nvinfer1::ILogger& logger) {
        logger.log(nvinfer1::ILogger::Severity::kERROR, message.c_str());
        told = true;
    });
    if (!told) std::fprintf(stderr, "%s\n", message.c_str());
}

void register_creator(nvinfer1::IPluginCreatorInterface& creator, const char* plugin_namespace) {
    static const bool ready = (load_tensorrt(), true);
    static_cast<void>(ready);
    each_tensorrt<nvinfer1::IPluginRegistry>("getPluginRegistry", [&](nvinfer1::IPluginRegistry& registry) {
        registry.registerCreator(creator, plugin_namespace);
    });
}

void deregister_creator(const nvinfer1::IPluginCreatorInterface& creator) {
    each_tensorrt<nvinfer1::IPluginRegistry>("getPluginRegistry", [&](nvinfer1::IPluginRegistry& registry) {
        registry.deregisterCreator(creator);
    });
}

}  // namespace tokexport::shell
