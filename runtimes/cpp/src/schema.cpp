#include "schema.h"

#include <algorithm>
#include <cctype>

#include "tokexport/errors.h"

namespace tokexport {
namespace {

// Nine digits fit an int.
bool is_number(const std::string& text) {
    return !text.empty() && text.size() < 10 &&
           std::all_of(text.begin(), text.end(), [](unsigned char c) { return std::isdigit(c); });
}

std::string minor_of(const std::string& schema) {
    const std::size_t dot = schema.find('.');
    return dot == std::string::npos ? "" : schema.substr(dot + 1);
}

}  // namespace

int major_version(const std::string& schema, const std::string& where, int newest) {
    const std::string major = schema.substr(0, schema.find('.'));
    if (!is_number(major) || !is_number(minor_of(schema)))
        throw BundleError("manifest.json has schema '" + schema + "', and a bundle has a version such as '1.0'", where,
                          kAgain);
    const int found = std::stoi(major);
    if (found < 1 || found > newest) {
        std::string known = "1.x";
        for (int version = 2; version <= newest; ++version) known += " and " + std::to_string(version) + ".x";
        throw BundleError("the bundle has schema " + schema + ", and this library reads " + known, where,
                          found > newest ? "Build a newer tokexport." : "Export it again.");
    }
    return found;
}

bool is_newer_minor(const std::string& schema, const std::string& where, int newest) {
    const bool manifest = major_version(schema, where, newest) == kNewestManifest;
    return std::stoi(minor_of(schema)) > (manifest ? kManifestMinor : 0);
}

}  // namespace tokexport
