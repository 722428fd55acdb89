#include "tokexport/bundle.h"

#include <algorithm>
#include <fstream>
#include <sstream>

#include "schema.h"
#include "sha256.h"
#include "tokexport/errors.h"

namespace tokexport {
namespace {

namespace fs = std::filesystem;

constexpr const char* kManifest = "manifest.json";
// A replacement that is under way, or was interrupted (runtimes/bundle/atomic_replace.py).
constexpr const char* kPending = ".tokexport-commit";

std::string read(const fs::path& folder) {
    std::error_code error;
    if (!fs::is_directory(folder, error))
        throw BundleError(
            fs::exists(folder, error) ? "the bundle is a file, and a bundle is a folder" : "the bundle does not exist",
            folder.string(), "Name the folder given by -o.");
    if (fs::exists(fs::symlink_status(folder / kPending, error)))
        throw BundleError("the bundle is in the middle of being replaced", folder.string(),
                          "Try again; if nothing is writing it, finish it with `tokexport verify`.");
    std::ostringstream text;
    // Opening a pipe could block for ever.
    if (fs::is_regular_file(folder / kManifest, error))
        text << std::ifstream(folder / kManifest, std::ios::binary).rdbuf();
    if (text.str().empty())
        throw BundleError("this folder is no bundle: it has no manifest.json that can be read", folder.string(),
                          "Name the folder given by -o.");
    return text.str();
}

void check_file(const fs::path& folder, const std::string& name, std::uint64_t size) {
    std::error_code error;
    fs::path path = folder;
    // A link in any part of the path could lead out of the folder.
    for (const fs::path& part : fs::path(name)) {
        path /= part;
        if (fs::is_symlink(path, error))
            throw BundleError(name + " is a symbolic link, which ONNX Runtime refuses", folder.string(),
                              "Copy the bundle with its files: cp -rL " + folder.string() + " NEW");
    }
    if (!fs::is_regular_file(path, error)) throw BundleError(name + " is missing", folder.string(), kAgain);
    const std::uintmax_t found = fs::file_size(path, error);
    if (error || found != size)
        throw BundleError(name + " has " + std::to_string(found) + " bytes, not " + std::to_string(size),
                          folder.string(), kAgain);
}

}  // namespace

Bundle Bundle::open(const fs::path& folder) {
    Bundle bundle(folder, Manifest::parse(read(folder), (folder / kManifest).string()));
    for (const auto& [name, record] : bundle.manifest_.files) check_file(folder, name, record.size);
    return bundle;
}

std::size_t Bundle::verify_hashes() const {
    std::string changed;
    for (const auto& [name, record] : manifest_.files)
        if (sha256(path_ / name) != record.sha256) changed += (changed.empty() ? "" : ", ") + name;
    if (!changed.empty()) throw BundleError("the content of " + changed + " has changed", path_.string(), kAgain);
    return manifest_.files.size();
}

const Variant& Bundle::variant(const std::string& name) const {
    if (name.empty()) return manifest_.variants.front();
    std::vector<std::string> names;
    for (const Variant& variant : manifest_.variants) {
        if (variant.name == name) return variant;
        names.push_back(variant.name);
    }
    throw RequestError("the bundle has no variant '" + name + "'", path_.string(), nearest(name, names, "variants"));
}

const GraphRecord& Bundle::graph(const std::string& role, const std::string& variant) const {
    const auto& graphs = this->variant(variant).graphs;
    const auto found = graphs.find(role);
    if (found == graphs.end())
        throw RequestError(
            "the bundle has no graph '" + role + "'", path_.string(),
            nearest(role, keys(graphs), "graphs") + " Export it with --parts all to get the language graphs.");
    return found->second;
}

fs::path Bundle::model_path(const std::string& role, const std::string& form, const std::string& variant) const {
    const auto& forms = graph(role, variant).forms;
    const auto found = forms.find(form);
    if (found == forms.end())
        throw RequestError("the bundle has no " + form + " form of " + role, path_.string(),
                           nearest(form, keys(forms), "forms"));
    return path_ / found->second;
}

}  // namespace tokexport
