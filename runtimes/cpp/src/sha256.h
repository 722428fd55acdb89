// The SHA-256 of a file.
#pragma once

#include <filesystem>
#include <string>

namespace tokexport {

// 64 lower-case hexadecimal digits. BundleError: the file cannot be read.
std::string sha256(const std::filesystem::path& file);

}  // namespace tokexport
