// The manifest's records of how a picture, a video or a sound becomes the encoder's input.
#pragma once

#include "fields.h"
#include "tokexport/manifest.h"

namespace tokexport {

// BadField: it is none, or describes an input that is larger than any encoder takes.
Preprocess preprocess_of(const Field& field);

}  // namespace tokexport
