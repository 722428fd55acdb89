// Files that tokexport-run reads. The library itself takes pixels and samples, wherever they come from.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

struct Picture {
    int width, height;
    std::vector<std::uint8_t> rgba;
};

// RequestError: no such file, or no PNG.
Picture read_png(const std::string& path);

struct Recording {
    int sample_rate;
    std::vector<float> samples;  // channels averaged
};

// WAV, FLAC, OGG and all that libsndfile reads. RequestError: no such file, no sound, or empty.
Recording read_sound(const std::string& path);
