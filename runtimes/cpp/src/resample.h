// Resizes 8-bit RGB images exactly as Pillow does.
#pragma once

#include <cstdint>
#include <vector>

#include "tokexport/media.h"

namespace tokexport {

// Three bytes a pixel, rows one after the other.
struct Pixels {
    Pixels(int width, int height) : width(width), height(height), bytes(std::size_t(width) * height * 3) {}

    std::uint8_t* at(int x, int y) { return &bytes[(std::size_t(y) * width + x) * 3]; }
    const std::uint8_t* at(int x, int y) const { return &bytes[(std::size_t(y) * width + x) * 3]; }

    int width, height;
    std::vector<std::uint8_t> bytes;
};

// The image at (width, height). Filters other than nearest are widened by the downscaling factor (antialiasing).
Pixels resize(const Pixels& image, int width, int height, PreprocessRecord::Resample filter);

}  // namespace tokexport
