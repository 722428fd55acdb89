// Files that somebody else made: regular ones alone, opened without waiting for the other end of a pipe.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

#include "tokexport/bundle.h"

namespace tokexport {

// No text that people or programs write as a configuration is larger.
constexpr std::uint64_t kLargestText = 64 << 20;
// protobuf's limit for one message.
constexpr std::uint64_t kLargestGraph = INT32_MAX;

class RegularFile {
  public:
    // std::system_error: it cannot be opened, or is a folder, pipe, socket or device; or a link that may not be
    // followed.
    explicit RegularFile(const std::filesystem::path& path, bool follow = true);
    ~RegularFile();
    RegularFile(const RegularFile&) = delete;
    RegularFile& operator=(const RegularFile&) = delete;

    const Identity& identity() const { return identity_; }

    // The next bytes, at most `most`; none at the end. std::system_error: it cannot be read.
    std::string read(std::size_t most);

    // Everything. std::system_error: there is more than `most` bytes, or it cannot be read.
    std::string content(std::uint64_t most);

  private:
    int descriptor_;
    Identity identity_;
};

// What a file of a bundle is now. BundleError: it is missing, no regular file, reached through a symbolic link, or has
// another size.
Identity check_file(const std::filesystem::path& folder, const std::string& name,
                    std::optional<std::uint64_t> size = std::nullopt);

// The data files of a graph, as paths inside the bundle: found wherever a tensor can stand in an ONNX file.
// GraphError: `content`, of the file `name`, is no graph.
std::vector<std::string> external_data(const std::string& name, const std::string& content);

}  // namespace tokexport
