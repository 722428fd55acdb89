#include "creator.h"

#include <deque>
#include <string>

#include "host.h"
#include "plugin.h"

namespace tokexport::shell {
namespace {

// A deque, because TensorRT keeps pointers to its elements; never destroyed, because TensorRT may end later than we do.
std::deque<Creator>& creators() {
    static auto* all = new std::deque<Creator>;
    return *all;
}

}  // namespace

void register_method(const char* name, MakeMethod make) {
    register_creator(creators().emplace_back(name, make), kNamespace);
}

Creator::Creator(const char* name, MakeMethod make) : name_(name), make_(make) {
    Attributes list(name, nullptr);
    const Definition all(name, list, make);
    for (const Attribute& attribute : all.attributes)
        fields_.emplace_back(attribute.name, nullptr, attribute.type, attribute.length);
    names_ = {static_cast<int32_t>(fields_.size()), fields_.data()};
}

nvinfer1::IPluginV3* Creator::createPlugin(const char* node, const nvinfer1::PluginFieldCollection* fields,
                                           nvinfer1::TensorRTPhase phase) noexcept {
    try {
        const nvinfer1::PluginFieldCollection none{};
        const std::string label = std::string(name_) + " '" + (node == nullptr ? "" : node) + "'";
        if (fields == nullptr) fields = &none;
        const bool stored = phase == nvinfer1::TensorRTPhase::kRUNTIME;
        if (stored) check_stored_version(label, fields);
        Attributes given(label, fields);
        auto definition = std::make_shared<const Definition>(name_, given, make_);
        if (!stored) given.finish();
        return new Plugin(std::move(definition));
    } catch (const std::exception& error) {
        log_error(error.what());
        return nullptr;
    }
}

}  // namespace tokexport::shell

#define TOKEXPORT_EXPORTED extern "C" __attribute__((visibility("default")))

// The two functions that IPluginRegistry::loadLibrary asks a library for. It refuses creators that are registered
// already, as ours are since the library was loaded, so whoever asks for them takes them over.
TOKEXPORT_EXPORTED nvinfer1::IPluginCreatorInterface* const* getCreators(int32_t& count) {
    using namespace tokexport::shell;
    static const std::vector<nvinfer1::IPluginCreatorInterface*> all = [] {
        std::vector<nvinfer1::IPluginCreatorInterface*> pointers;
        for (Creator& creator : creators()) {
            deregister_creator(creator);
            pointers.push_back(&creator);
        }
        return pointers;
    }();
    count = static_cast<int32_t>(all.size());
    return all.data();
}

// The table of an ILoggerFinder differs between TensorRT 10 and 11, and the logger it finds is the one that TensorRT's
// getLogger gives.
TOKEXPORT_EXPORTED void setLoggerFinder(nvinfer1::ILoggerFinder*) {}

// The plugins that are in this library, separated by spaces: for programs that ask where there is no TensorRT.
TOKEXPORT_EXPORTED const char* tokexport_plugin_names() {
    using namespace tokexport::shell;
    static const std::string names = [] {
        std::string list;
        for (const Creator& creator : creators()) list.append(list.empty() ? "" : " ").append(creator.getPluginName());
        return list;
    }();
    return names.c_str();
}
