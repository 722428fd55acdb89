// A bundle on disk: a folder with a manifest.json; every file it lists is in the folder and has the size it says.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <tuple>
#include <vector>

#include "tokexport/manifest.h"

namespace tokexport {

// One file as it was at one moment: any write, and any other file in its place, gives another identity.
struct Identity {
    std::uint64_t device = 0, inode = 0, size = 0;
    std::int64_t modified = 0, changed = 0;  // nanoseconds

    friend bool operator==(const Identity& a, const Identity& b) {
        return std::tie(a.device, a.inode, a.size, a.modified, a.changed) ==
               std::tie(b.device, b.inode, b.size, b.modified, b.changed);
    }
};

class Bundle {
  public:
    // Reads the manifest and checks that every file it lists is there with its size, that no path leaves the folder and
    // that each is a regular file, reached through no symbolic link. BundleError: no bundle, damaged, incomplete, being replaced, or too new.
    static Bundle open(const std::filesystem::path& folder);

    const std::filesystem::path& path() const { return path_; }
    const Manifest& manifest() const { return manifest_; }

    // Reads every file and compares its SHA-256; returns how many there are.
    // BundleError: names each file whose content has changed.
    std::size_t verify_hashes() const;

    // The variant of that name; "" is the first, which is the default one. RequestError: there is none of that name.
    const Variant& variant(const std::string& name = "") const;

    // The record of a role's graph. RequestError: the variant has no such graph.
    const GraphRecord& graph(const std::string& role, const std::string& variant = "") const;

    // What can be done where the bundle has no language graphs.
    std::string without_language() const;

    // The ONNX file of a role in one of its forms; its data file lies beside it. RequestError: there is none.
    std::filesystem::path model_path(const std::string& role, const std::string& form,
                                     const std::string& variant = "") const;

    // The ONNX file of a role in one of its forms and the data files that it reads, as paths in the bundle: those that
    // were there on opening. A backend reads them and calls check_held() afterwards.
    // RequestError: there is none. GraphError: it is no graph. BundleError: it reads a file that the manifest does not
    // list; or as check_held().
    std::vector<std::string> graph_files(const std::string& role, const std::string& form,
                                         const std::string& variant = "") const;

    // BundleError: a file has changed since the bundle was opened, or is no longer there.
    void check_held(const std::vector<std::string>& names) const;

  private:
    Bundle(std::filesystem::path path, Manifest manifest, std::map<std::string, Identity> held)
        : path_(std::move(path)), manifest_(std::move(manifest)), held_(std::move(held)) {}

    std::filesystem::path path_;
    Manifest manifest_;
    std::map<std::string, Identity> held_;
};

}  // namespace tokexport
