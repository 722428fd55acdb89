// Size and SHA-256 of a file, as the manifest and the sidecars of engines have them.
#pragma once

#include "fields.h"
#include "tokexport/manifest.h"

namespace tokexport {

// BadField: it is none.
FileRecord file_record(const Field& field);

}  // namespace tokexport
