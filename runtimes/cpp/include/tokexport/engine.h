// TensorRT engines in a bundle: engines/<device>/<variant>.<role>.plan, each with a sidecar .json that describes it.
// A plan is code, so all that can be known of it without TensorRT is checked before TensorRT reads it
// (runtimes/tensorrt/engines/file.py).
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "tokexport/bundle.h"

namespace tokexport {

struct EngineRecord {
    std::string role, variant, device, form;
    std::map<std::string, std::string> graph;  // SHA-256 of each file of the bundle that the engine was built from
    std::string runtime, version;              // of the TensorRT that built it; no other can load it
    std::string compute_capability;            // of the GPU it is for, such as "8.7"
    FileRecord plan;
    std::vector<std::string> plugins;  // operators in it that come from the plugin library
    std::string plugin_library;        // SHA-256 of the library; empty: built without one
    bool compared = false;             // whether the types of its layers were compared with those of the graph
};

// The devices that a variant has engines for.
std::vector<std::string> engine_devices(const Bundle& bundle, const std::string& variant);

// The sidecar of a role's engine. MissingError: there is no such engine. BundleError: the sidecar is damaged.
EngineRecord read_engine(const Bundle& bundle, const std::string& device, const std::string& variant,
                         const std::string& role);

// The path of the plan, after a check that it belongs to this bundle, is unchanged, and is for this TensorRT
// ("10.3.0") and this compute capability. `content` false does not hash the plan. BundleError: which check failed, and
// how to build it again.
std::filesystem::path check_engine(const Bundle& bundle, const EngineRecord& record, const std::string& version,
                                   const std::string& compute_capability, bool content = true);

// The device whose engines run here: `asked`, or the only one that fits. MissingError: there are no engines.
// RequestError: none of that name, or several fit. BundleError: none fits; says why the first does not.
std::string choose_device(const Bundle& bundle, const std::string& variant, const std::string& asked,
                          const std::string& version, const std::string& compute_capability);

}  // namespace tokexport
