// The version of a schema: that of the manifest, or of an engine's sidecar.
#pragma once

#include <string>

namespace tokexport {

inline const char* const kAgain = "Export it again, or copy it again in full.";

// The major versions of the manifest that this library reads, from the first on, and that of a sidecar.
constexpr int kNewestManifest = 2, kNewestSidecar = 1;

// The newest minor version of the manifest's newest major one; of all others it is 0.
constexpr int kManifestMinor = 6;

// The major version, from 1 to `newest`. BundleError: another one, or no version at all.
int major_version(const std::string& schema, const std::string& where, int newest);

// Whether a schema is of a newer minor version than this library's, and may hold keys that are unknown here.
// BundleError: as above.
bool is_newer_minor(const std::string& schema, const std::string& where, int newest);

}  // namespace tokexport
