// A word-level text processor: a fixed vocabulary, one word an id (runtimes/words.py).
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

namespace tokexport {

using Ids = std::vector<std::int64_t>;

class Words {
  public:
    // Reads a vocabulary file. BundleError: it is missing or damaged.
    static Words load(const std::filesystem::path& path);

    // The ids of a UTF-8 text, without `bos`; case is ignored, and a mark such as ? is a word of its own.
    // RequestError: a word is not in the vocabulary, or the text is not UTF-8.
    Ids tokenize(const std::string& text) const;

    // `bos` and the ids of a text.
    Ids prompt(const std::string& text) const;

    // The words of the ids up to the first `eos`; `pad` and `bos` are left out.
    // GraphError: an id is outside the vocabulary.
    std::string detokenize(const Ids& ids) const;

    std::int64_t bos() const { return bos_; }
    std::int64_t pad() const { return pad_; }
    const Ids& eos() const { return eos_; }

  private:
    static Words read(const std::string& text);
    bool is_special(std::int64_t id) const;
    std::string spaced(const std::string& lowered) const;

    std::vector<std::string> words_;
    std::int64_t bos_ = 0, pad_ = 0;
    Ids eos_;
    std::map<std::string, std::string> spellings_;
    std::map<std::string, std::int64_t> known_;  // what can be typed
    std::vector<std::string> marks_;             // words without a letter, a digit or _, the longest first
};

}  // namespace tokexport
