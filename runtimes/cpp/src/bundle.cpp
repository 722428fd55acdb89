#include "tokexport/bundle.h"

#include <algorithm>
#include <cerrno>
#include <system_error>

#include "files.h"
#include "schema.h"
#include "sha256.h"
#include "tokexport/errors.h"

namespace tokexport {
namespace {

namespace fs = std::filesystem;

constexpr const char* kManifest = "manifest.json";
// A replacement that is under way, or was interrupted (runtimes/bundle/atomic_replace.py).
constexpr const char* kPending = ".tokexport-commit";

bool is_pending(const fs::path& folder) {
    std::error_code error;
    return fs::exists(fs::symlink_status(folder / kPending, error));
}

// The manifest's text, and which file it was.
std::pair<std::string, Identity> read(const fs::path& folder) {
    std::error_code error;
    if (!fs::is_directory(folder, error))
        throw BundleError(
            fs::exists(folder, error) ? "the bundle is a file, and a bundle is a folder" : "the bundle does not exist",
            folder.string(), "Name the folder given by -o.");
    if (is_pending(folder))
        throw BundleError("the bundle is in the middle of being replaced", folder.string(),
                          "Try again; if nothing is writing it, finish it with `tokexport verify`.");
    try {
        RegularFile file(folder / kManifest, false);
        return {file.content(kLargestText), file.identity()};
    } catch (const std::system_error& found) {
        if (found.code().value() == ELOOP) check_file(folder, kManifest);
        throw BundleError("this folder is no bundle: it has no manifest.json that can be read: " +
                              found.code().message(),
                          folder.string(), "Name the folder given by -o.");
    }
}

}  // namespace

Bundle Bundle::open(const fs::path& folder) {
    const auto [text, before] = read(folder);
    Manifest manifest = Manifest::parse(text, (folder / kManifest).string());
    std::map<std::string, Identity> held;
    for (const auto& [name, record] : manifest.files) held[name] = check_file(folder, name, record.size);
    // A replacement moves the manifest last, and removes the old one first: files of another bundle had another one.
    if (is_pending(folder) || !(check_file(folder, kManifest) == before))
        throw BundleError("the bundle was replaced while it was opened", folder.string(), "Open it again.");
    return Bundle(folder, std::move(manifest), std::move(held));
}

std::size_t Bundle::verify_hashes() const {
    std::string changed;
    for (const auto& [name, record] : manifest_.files) {
        check_file(path_, name);
        if (sha256(path_ / name) != record.sha256) changed += (changed.empty() ? "" : ", ") + name;
    }
    if (!changed.empty()) throw BundleError("the content of " + changed + " has changed", path_.string(), kAgain);
    return manifest_.files.size();
}

std::vector<std::string> Bundle::graph_files(const std::string& role, const std::string& form,
                                             const std::string& variant) const {
    const std::string name = model_path(role, form, variant).lexically_relative(path_).generic_string();
    check_held({name});
    std::vector<std::string> names;
    try {
        names = external_data(name, RegularFile(path_ / name, false).content(kLargestGraph));
    } catch (const std::system_error& error) {
        throw BundleError(name + " cannot be read: " + error.code().message(), path_.string(), kAgain);
    }
    for (const std::string& other : names)
        if (!manifest_.files.count(other))
            throw BundleError(name + " reads '" + other + "', which manifest.json does not list, so nobody checks it",
                              path_.string(), kAgain);
    names.push_back(name);
    check_held(names);
    return names;
}

void Bundle::check_held(const std::vector<std::string>& names) const {
    for (const std::string& name : names) {
        const auto record = manifest_.files.find(name);
        if (record == manifest_.files.end())
            throw BundleError("the bundle has no file '" + name + "'", path_.string(), kAgain);
        // Another file with the same content is as good: a copy, or one put back from a backup.
        if (check_file(path_, name) == held_.at(name) || sha256(path_ / name) == record->second.sha256) continue;
        throw BundleError(name + " has changed since the bundle was opened", path_.string(),
                          "Open the bundle again. If it still fails, check it with `tokexport verify`.");
    }
}

const Variant& Bundle::variant(const std::string& name) const {
    if (name.empty()) return manifest_.variants.front();
    std::vector<std::string> names;
    std::vector<const Variant*> alike;
    for (const Variant& variant : manifest_.variants) {
        if (variant.name == name) return variant;
        names.push_back(variant.name);
        if (variant.compression.size() == 1 && variant.compression.front().ratio == name) alike.push_back(&variant);
    }
    if (alike.size() == 1) return *alike.front();
    throw RequestError("the bundle has " +
                           (alike.empty() ? "no variant '" : std::to_string(alike.size()) + " variants of ratio '") + name +
                           "'",
                       path_.string(), nearest(name, names, "variants"));
}

const GraphRecord& Bundle::graph(const std::string& role, const std::string& variant) const {
    const auto& graphs = this->variant(variant).graphs;
    const auto found = graphs.find(role);
    if (found == graphs.end())
        throw RequestError(
            "the bundle has no graph '" + role + "'", path_.string(),
            nearest(role, keys(graphs), "graphs") + " " + without_language());
    return found->second;
}

std::string Bundle::without_language() const {
    if (manifest_.builtin) return "Export it with --parts all to get the language graphs.";
    for (const Variant& variant : manifest_.variants) {
        const auto& outputs = variant.graphs.at("encoder").outputs;
        if (outputs.count("embedding") || outputs.count("logits"))
            return "It is an image tower, whose answer is an output of its encoder: Session::encode.";
    }
    return "Without them there are no answers: of this one run the encoder, and give its tokens to your own language "
           "model.";
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
