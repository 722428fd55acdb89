// The manifest's records of how a model is asked: what a recogniser is told, and how a question is put.
#pragma once

#include "fields.h"
#include "tokexport/manifest.h"

namespace tokexport {

// BadField: it is none, or names an id that is no word of `vocabulary`.
SpeechRecord speech_of(const Field& field, std::int64_t vocabulary);

// Whether two are told alike: what is heard in one window is asked of the next.
bool heard_alike(const SpeechRecord& one, const SpeechRecord& other);

// How a question becomes ids. This library takes the ids of a prompt, so it keeps none of it.
void check_prompt(const Field& field, const GenerationRecord& record);

}  // namespace tokexport
