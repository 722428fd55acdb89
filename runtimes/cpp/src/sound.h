// What every sound must be, whatever is made of it.
#pragma once

#include "tokexport/media.h"

namespace tokexport {

// RequestError: empty, not finite, at another sample rate, or longer than `most` samples.
void check_sound(const Sound& sound, int sample_rate, std::int64_t most);

}  // namespace tokexport
