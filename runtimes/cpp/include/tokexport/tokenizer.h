// The reading half of a tokenizer.json of Hugging Face's library `tokenizers`: ids become text. There is no writing
// half: a prompt is given as ids.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "tokexport/words.h"

namespace tokexport {

class Tokenizer {
  public:
    // Models BPE, WordLevel, WordPiece and Unigram; decoders ByteLevel, ByteFallback, Fuse, Metaspace, Replace, Strip,
    // and a Sequence of them. BundleError: missing, damaged, or with another decoder.
    static Tokenizer load(const std::filesystem::path& path);

    // UTF-8, without special tokens and ids that no token has; bytes that are no UTF-8 read U+FFFD, as in the library.
    std::string decode(const Ids& ids) const;

    bool has(std::int64_t id) const { return tokens_.count(id) > 0; }

    // One more than the highest id.
    std::int64_t vocabulary() const { return vocabulary_; }

    // What a decoder makes of the tokens of a text, one after the other.
    using Pieces = std::vector<std::string>;
    using Step = std::function<Pieces(const Pieces&)>;

  private:
    static Tokenizer read(const std::string& text);

    std::unordered_map<std::int64_t, std::string> tokens_;
    std::unordered_set<std::string> special_;
    std::vector<Step> steps_;
    const char* between_ = "";  // tokens of a file without a decoder are joined by spaces
    std::int64_t vocabulary_ = 0;
};

}  // namespace tokexport
