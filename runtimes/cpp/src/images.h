// Several images in one prompt, as runtimes/images.py has them.
#pragma once

#include <vector>

#include "tokexport/generate.h"
#include "tokexport/media.h"

namespace tokexport {

// A prompt without the places of its images, and where each of as many as the graphs take begins in the sequence.
struct Placed {
    Ids words;
    std::vector<std::int64_t> starts;
};

// RequestError: there are other images than places in the prompt, or more than the bundle takes.
Placed placed(const Ids& prompt, const GenerationRecord& record, std::int64_t count);

// RequestError: a bundle takes not so many pictures or sounds in a prompt.
void check_count(const GenerationRecord& record, std::int64_t count);

// The frames of a video, given as pictures in their order, as the encoder takes them by its `input`: all in one tensor, or
// a tensor for every n, [1, n, 3, H, W], or for each, [1, 3, H, W]. Other media, and those of other bundles, as they are.
// RequestError: there are other pictures than frames. BundleError: record and graph do not belong together.
std::vector<Media> of_frames(const std::vector<Media>& media, const Preprocess& record, const TensorRecord& input);

// What the encoder gave of n images as generation reads it: tokens [1, n K, D], kept_indices and sizes [1, n K].
Tensors joined(const std::vector<Tensors>& encoded);

// n of what `joined` returned.
std::int64_t count_of(const GenerationRecord& record, const Tensors& encoded);

// What is there of n images [1, n K, ...], for as many as the graphs take [1, I K, ...]: then zeros.
Tensor widened(const Tensor& tensor, const GenerationRecord& record);

}  // namespace tokexport
