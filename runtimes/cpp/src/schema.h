// The version of the manifest's schema.
#pragma once

#include <string>

namespace tokexport {

inline const char* const kAgain = "Export it again, or copy it again in full.";

// Whether a schema is of a newer minor version than this library's, and may hold keys that are unknown here.
// BundleError: another major version, or no version at all.
bool is_newer_minor(const std::string& schema, const std::string& where);

}  // namespace tokexport
