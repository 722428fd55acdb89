// What a session answers, and what may be asked of it.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "tokexport/words.h"

namespace tokexport {

// A part of a transcript, and when it was said: in seconds from the beginning of the sound.
struct Segment {
    double start, end;
    std::string text;
};

// A piece of a sound that went through the encoder at once.
struct Heard {
    double start, end;    // in seconds from the beginning of the sound
    std::string variant;  // of the bundle, whose window held it
    std::size_t slots;    // how many of kept_indices and sizes are its own
};

struct Answer {
    std::string text;                        // empty where the bundle has no text processor
    Ids ids;                                 // without prompt and `eos`
    std::vector<std::int64_t> kept_indices;  // [K], the input token whose position each slot has
    std::vector<float> sizes;                // [K], how many input tokens each slot stands for
    bool finished = true;                    // false: the token limit cut it off
    // What a reader should know: the limit was reached, the end repeats itself, the sound is silent.
    std::vector<std::string> notes = {};
    std::string language = {};  // of a transcript, where the model has languages: the code asked for or heard
    std::optional<std::vector<Segment>> segments = {};  // of a transcript with times
    std::vector<Heard> pieces = {};                     // of a transcript: the parts that were read one by one
};

struct GenerateOptions {
    std::optional<std::int64_t> max_new_tokens = {};  // for each piece of a sound; none: as many as the cache holds
    std::string language = {};  // of a recogniser with several: a code, such as "en"; "": the one that it hears
    std::string task = {};      // "transcribe" or "translate"; "": the first of these that the model has
    bool timestamps = false;    // whether the transcript is wanted in segments with times
    // Told the seconds that were read and those there are, behind each piece of a long sound.
    std::function<void(double, double)> listening = {};
};

}  // namespace tokexport
