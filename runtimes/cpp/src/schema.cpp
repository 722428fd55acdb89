#include "schema.h"

#include <algorithm>
#include <cctype>

#include "tokexport/errors.h"

namespace tokexport {
namespace {

constexpr int kMajor = 1, kMinor = 0;

// Nine digits fit an int.
bool is_number(const std::string& text) {
    return !text.empty() && text.size() < 10 &&
           std::all_of(text.begin(), text.end(), [](unsigned char c) { return std::isdigit(c); });
}

}  // namespace

bool is_newer_minor(const std::string& schema, const std::string& where) {
    const std::size_t dot = schema.find('.');
    const std::string major = schema.substr(0, dot), minor = dot == std::string::npos ? "" : schema.substr(dot + 1);
    if (!is_number(major) || !is_number(minor))
        throw BundleError("manifest.json has schema '" + schema + "', and a bundle has a version such as '1.0'", where,
                          kAgain);
    if (std::stoi(major) != kMajor)
        throw BundleError(
            "the bundle has schema " + schema + ", and this library reads " + std::to_string(kMajor) + ".x", where,
            std::stoi(major) > kMajor ? "Build a newer tokexport." : "Export it again.");
    return std::stoi(minor) > kMinor;
}

}  // namespace tokexport
