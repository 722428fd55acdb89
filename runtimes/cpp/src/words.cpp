#include "tokexport/words.h"

#include <algorithm>
#include <set>
#include <system_error>

#include "fields.h"
#include "files.h"
#include "tokexport/errors.h"
#include "unicode.h"

namespace tokexport {
namespace {

bool is_mark(const std::string& word) {
    const std::u32string letters = from_utf8(word);
    return std::none_of(letters.begin(), letters.end(), is_word);
}

std::vector<std::string> split(const std::string& text) {
    std::vector<std::string> found;
    std::u32string word;
    for (const char32_t c : from_utf8(text) + U" ") {
        if (!is_space(c)) {
            word += c;
        } else if (!word.empty()) {
            found.push_back(to_utf8(word));
            word.clear();
        }
    }
    return found;
}

}  // namespace

Words Words::load(const std::filesystem::path& path) {
    const auto damaged = [&](const std::string& fact) {
        return BundleError("the vocabulary is damaged: " + fact, path.string(), "Export the bundle again.");
    };
    try {
        return read(RegularFile(path).content(kLargestText));
    } catch (const BadField& error) {
        throw damaged(error.what());
    } catch (const std::system_error& error) {
        throw damaged(error.code().message());
    }
}

Words Words::read(const std::string& text) {
    const Document document(text);
    Fields fields(document.root());
    Words made;
    std::set<std::string> seen;
    for (const Field& word : fields.at("words").list()) {
        made.words_.push_back(word.text());
        word.must(seen.insert(made.words_.back()).second, "the word stands twice");
    }
    const auto last = static_cast<std::int64_t>(made.words_.size()) - 1;
    made.bos_ = fields.at("bos").integer(0, last);
    made.pad_ = fields.at("pad").integer(0, last);
    const Field eos = fields.at("eos");
    made.eos_ = eos.is_list() ? eos.integers(0, last) : Ids{eos.integer(0, last)};
    if (const auto spellings = fields.find("spellings"))
        for (const auto& [other, word] : spellings->items()) made.spellings_[other] = word.text();
    fields.done();
    for (std::int64_t id = 0; id <= last; ++id) {
        const std::string& word = made.words_[static_cast<std::size_t>(id)];
        if (made.is_special(id)) continue;
        made.known_[word] = id;
        if (!word.empty() && is_mark(word)) made.marks_.push_back(word);
    }
    // Longest first, so that "..." is not read as three words.
    std::stable_sort(made.marks_.begin(), made.marks_.end(), [](const std::string& a, const std::string& b) {
        return from_utf8(a).size() > from_utf8(b).size();
    });
    return made;
}

bool Words::is_special(std::int64_t id) const {
    return id == pad_ || id == bos_ || std::find(eos_.begin(), eos_.end(), id) != eos_.end();
}

// Marks with spaces around them.
std::string Words::spaced(const std::string& lowered) const {
    std::string text;
    for (std::size_t i = 0; i < lowered.size();) {
        const auto mark = std::find_if(marks_.begin(), marks_.end(), [&](const std::string& word) {
            return lowered.compare(i, word.size(), word) == 0;
        });
        if (mark == marks_.end()) {
            text += lowered[i++];
        } else {
            text += " " + *mark + " ";
            i += mark->size();
        }
    }
    return text;
}

namespace {

// What to say instead of a word that is not known; all words only where they are few.
std::string near_words(const std::string& word, const std::vector<std::string>& known) {
    constexpr std::size_t kFew = 12;
    if (known.size() <= kFew) return nearest(word, known, "words");
    const std::string close = closest(word, known);
    if (!close.empty()) return "Did you mean " + close + "?";
    return "It knows " + std::to_string(known.size()) + " words, and none like it: ask with other words.";
}

}  // namespace

Ids Words::tokenize(const std::string& text) const {
    std::u32string lowered;
    for (const char32_t c : from_utf8(text)) lowered += lower(c);
    Ids ids;
    for (std::string word : split(spaced(to_utf8(lowered)))) {
        const auto spelled = spellings_.find(word);
        if (spelled != spellings_.end()) word = spelled->second;
        const auto found = known_.find(word);
        if (found == known_.end())
            throw RequestError("the model does not know the word '" + word + "'", "prompt '" + text + "'",
                               near_words(word, keys(known_)));
        ids.push_back(found->second);
    }
    return ids;
}

Ids Words::prompt(const std::string& text) const {
    Ids ids = tokenize(text);
    ids.insert(ids.begin(), bos_);
    return ids;
}

std::string Words::detokenize(const Ids& ids) const {
    std::string text;
    for (const std::int64_t id : ids) {
        if (std::find(eos_.begin(), eos_.end(), id) != eos_.end()) break;
        if (id < 0 || id >= static_cast<std::int64_t>(words_.size()))
            throw GraphError("the model answered with id " + std::to_string(id) + ", and the vocabulary has " +
                                 std::to_string(words_.size()) + " words",
                             "", "The graphs and the vocabulary are not of one model: export the bundle again.");
        if (!is_special(id)) text += (text.empty() ? "" : " ") + words_[id];
    }
    return text;
}

}  // namespace tokexport
