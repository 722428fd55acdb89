// A picture or a sound, and how it becomes the encoder's input. Both are views of the program's own memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <variant>

#include "tokexport/manifest.h"
#include "tokexport/tensor.h"

namespace tokexport {

// 8 bits a channel, upright, red first. A fourth channel, such as alpha, is not read.
struct Image {
    const std::uint8_t* pixels;
    int width, height;
    int channels = 3;        // bytes from one pixel to the next: 3 or 4
    std::size_t stride = 0;  // bytes from one row to the next; 0: width * channels
};

// One channel, samples in [-1, 1].
struct Sound {
    const float* samples;
    std::size_t count;
    int sample_rate;  // in hertz
};

// A Tensor is the encoder's input already: pixel_values [B, 3, H, W], of a video [B, T, 3, H, W], or input_features
// [B, mels, frames], or
// input_values [B, samples], float32.
using Media = std::variant<Image, Sound, Tensor>;

// float32 [1, 3, height, width], as runtimes/media/image.py computes it with Pillow: resized on 8-bit values.
// RequestError: an image without pixels. BundleError: the record asks for no antialiasing, which no bundle needs.
Tensor pixel_values(const Image& image, const PreprocessRecord& record);

// float32 [1, mels, frames], as runtimes/media/log_mel.py computes it; a shorter sound is followed by silence.
// RequestError: empty, longer than the window, not finite, or at another sample rate.
Tensor input_features(const Sound& sound, const LogMelRecord& record);

// float32 [1, samples]; a shorter sound is followed by silence. RequestError: likewise.
Tensor input_values(const Sound& sound, const WaveformRecord& record);

// The encoder's main input. RequestError: the bundle takes another kind of input.
Tensor encoder_input(const Media& media, const Preprocess& record);

}  // namespace tokexport
