// The decoders of a tokenizer.json.
#pragma once

#include "fields.h"
#include "tokexport/tokenizer.h"

namespace tokexport {

// The steps of a decoder, in order. BadField: it is damaged, or of a kind that this library does not know.
std::vector<Tokenizer::Step> decoder_steps(const Field& decoder);

}  // namespace tokexport
