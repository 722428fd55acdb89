// How a recogniser is told what to write: its prompt by language, task and times, and the language that it hears
// (runtimes/speech.py).
#pragma once

#include <string>
#include <vector>

#include "tokexport/answer.h"
#include "tokexport/generate.h"

namespace tokexport {

// What was asked, in the words of the record. RequestError: the model lacks it.
GenerateOptions checked(GenerateOptions options, const GenerationRecord& record, const std::string& where);

// What of it was asked for: language, task, timestamps.
std::vector<std::string> asked_for(const GenerateOptions& options);

// The ids that a transcript begins with, for what `checked` returned; its language is set where the model has any.
Ids speech_prompt(const SpeechRecord& record, const GenerateOptions& options);

// The code of the language that the model hears: the likeliest id of a language behind `start`.
std::string heard_language(const Run& run, const Variant& variant, const Tensors& encoded);

// The ids without those of times.
Ids text_ids(const Ids& ids, const SpeechRecord& record);

// What was said between the times of a transcript of a piece from `start` to `end`, in seconds.
std::vector<Segment> segments_of(const Ids& ids, const SpeechRecord& record,
                                 const std::function<std::string(const Ids&)>& text, double start, double end);

// Without spaces at its ends.
std::string stripped(const std::string& text);

// To milliseconds.
double rounded(double seconds);

}  // namespace tokexport
