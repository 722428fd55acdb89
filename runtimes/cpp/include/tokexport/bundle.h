// A bundle on disk: a folder with a manifest.json; every file it lists is in the folder and has the size it says.
#pragma once

#include <cstddef>
#include <filesystem>
#include <string>

#include "tokexport/manifest.h"

namespace tokexport {

class Bundle {
  public:
    // Reads the manifest and checks that every file it lists is there with its size, that no path leaves the folder and
    // that none is a symbolic link. BundleError: no bundle, damaged, incomplete, being replaced, or too new.
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

    // The ONNX file of a role in one of its forms; its data file lies beside it. RequestError: there is none.
    std::filesystem::path model_path(const std::string& role, const std::string& form,
                                     const std::string& variant = "") const;

  private:
    Bundle(std::filesystem::path path, Manifest manifest) : path_(std::move(path)), manifest_(std::move(manifest)) {}

    std::filesystem::path path_;
    Manifest manifest_;
};

}  // namespace tokexport
