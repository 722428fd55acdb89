// The windows of a bundle: encoders for sounds of different length, and which of them reads a sound
// (runtimes/windows.py).
#pragma once

#include <vector>

#include "tokexport/manifest.h"

namespace tokexport {

struct Window {
    const Variant* variant;
    int sample_rate;
    std::int64_t samples;  // the width of the encoder's input
    std::int64_t room;     // the longest sound that it reads well
    bool safe;             // whether it is taken without being named
};

// The windows with the compression of `variant`, its own among them; the shortest first. BundleError: the bundle does
// not say how a sound becomes the encoder's input.
std::vector<Window> windows(const Manifest& manifest, const Variant& variant);

// The shortest of these that reads a sound of so many samples well, or the longest.
const Window& shortest(const std::vector<Window>& windows, std::int64_t samples);

// That of a variant.
const Preprocess& preprocess_of(const Manifest& manifest, const Variant& variant);

}  // namespace tokexport
