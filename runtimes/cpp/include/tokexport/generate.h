// Greedy generation over the graphs of a bundle: the generation contract of runtimes/bundle/manifest.py as a loop.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "tokexport/answer.h"
#include "tokexport/choose.h"
#include "tokexport/manifest.h"
#include "tokexport/words.h"

namespace tokexport {

// Runs the graph of a role: tensors in and out by role name.
using Run = std::function<Tensors(const std::string& role, Tensors inputs)>;

// The ids of a prompt as a graph takes them, [1, length] int64: right padded with `pad`.
// RequestError: there are none, too many, or one outside the vocabulary.
Tensor padded(const Ids& prompt, std::int64_t length, std::int64_t pad, std::int64_t vocabulary);

// How many tokens are generated at most. RequestError: `asked` is outside 1 to the bundle's own limit.
std::int64_t limit_of(const GenerationRecord& record, std::optional<std::int64_t> asked);

// Answers a prompt about one encoded input, taking the most likely token each time; ties go to the lowest id.
//   run             for the roles embed (not with cross-attention), prefill and decode
//   encoded         the encoder's outputs by role: tokens [1, K, D], and kept_indices and sizes where it compresses; of a
//                   bundle for several images those of each, one after the other: [1, n K, ...]
//   prompt          ids, `bos` included, not padded; of such a bundle with the placeholder of each image
//   max_new_tokens  at most this many; none: as many as the KV cache holds
//   rules           which tokens may be chosen; none: those of the generation record
// RequestError: the prompt is too long or too short, an id is outside the vocabulary, max_new_tokens outside its limit.
// GraphError: logits or sizes are not finite, or an output of the contract is missing.
Answer greedy(const Run& run, const Variant& variant, const Tensors& encoded, const Ids& prompt,
              std::optional<std::int64_t> max_new_tokens = std::nullopt,
              const std::optional<Rules>& rules = std::nullopt);

}  // namespace tokexport
