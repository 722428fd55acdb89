// Writes down what is said in a sound of any length, window by window (runtimes/transcribe.py).
#pragma once

#include <functional>
#include <optional>
#include <string>

#include "tokexport/answer.h"
#include "tokexport/generate.h"
#include "tokexport/media.h"

namespace tokexport {

// What a session lends: its graphs, by variant, and its text processor.
struct Ear {
    const Manifest& manifest;
    const Variant& variant;
    bool named;  // the variant was asked for by name: no other may read a sound
    std::function<Tensors(const Variant&, const Media&)> encode;
    std::function<Tensors(const Variant&, const std::string&, Tensors)> run;
    std::function<std::string(const Ids&)> text;
};

// `words` are ids that the transcript begins with, `whole` those of a whole prompt instead. The options are `checked`.
Answer transcribe(const Ear& ear, const Media& media, const Ids& words, const std::optional<Ids>& whole,
                  const GenerateOptions& options);

}  // namespace tokexport
