#include "decoders.h"

#include <algorithm>
#include <array>
#include <cctype>

#include "unicode.h"

namespace tokexport {
namespace {

using Pieces = Tokenizer::Pieces;
using Step = Tokenizer::Step;

constexpr const char* kReplacement = "\xEF\xBF\xBD";  // U+FFFD
// A sequence may hold sequences; no real one is deeper.
constexpr int kDeepest = 8;
// As runtimes/tokenizer_file.py: a chain of replacements could turn a word into gigabytes.
constexpr std::size_t kMostParts = 64, kMostGrowth = 64;

// How many times longer the steps may make a text, in characters, and how many they are.
struct Growth {
    std::size_t times = 1, parts = 0;

    void add(const Field& part, std::size_t by) {
        times *= std::max<std::size_t>(by, 1);
        part.must(times <= kMostGrowth && ++parts <= kMostParts,
                  "with it the decoder has too many parts, or can make a text too long");
    }
};

// The step that changes each token for itself.
template <class Change>
Step each(Change change) {
    return [change](const Pieces& pieces) {
        Pieces found;
        for (const std::string& piece : pieces) found.push_back(change(piece));
        return found;
    };
}

std::string joined(const Pieces& pieces) {
    std::string text;
    for (const std::string& piece : pieces) text += piece;
    return text;
}

// GPT-2 writes bytes as characters: those that can be printed as themselves, the others from U+0100 on.
std::array<int, 512> byte_of_character() {
    std::array<int, 512> bytes;
    bytes.fill(-1);
    int hidden = 0;
    for (int byte = 0; byte < 256; ++byte) {
        const bool printed =
            (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte <= 0xAC) || (byte >= 0xAE && byte <= 0xFF);
        bytes[static_cast<std::size_t>(printed ? byte : 256 + hidden++)] = byte;
    }
    return bytes;
}

// A token that is not written so, as an added one may be, stands for itself.
std::string bytes_of(const std::string& piece) {
    static const auto kBytes = byte_of_character();
    std::string bytes;
    for (const char32_t c : from_utf8(piece)) {
        if (c >= kBytes.size() || kBytes[c] < 0) return piece;
        bytes += static_cast<char>(kBytes[c]);
    }
    return bytes;
}

Pieces byte_level(const Pieces& pieces) {
    std::string bytes;
    for (const std::string& piece : pieces) bytes += bytes_of(piece);
    return {repaired(bytes)};
}

// The byte that "<0xE2>" stands for; -1: the token stands for no byte. "+" may stand for a leading zero there.
int byte_of_token(const std::string& piece) {
    if (piece.size() != 6 || piece.compare(0, 3, "<0x") != 0 || piece[5] != '>') return -1;
    const std::string digits = piece[3] == '+' ? piece.substr(4, 1) : piece.substr(3, 2);
    const bool hex = std::all_of(digits.begin(), digits.end(), [](unsigned char c) { return std::isxdigit(c); });
    return hex ? std::stoi(digits, nullptr, 16) : -1;
}

// Tokens of bytes become the characters that they make together, or, one by one, U+FFFD.
Pieces byte_fallback(const Pieces& pieces) {
    Pieces found;
    std::string bytes;
    const auto flush = [&] {
        if (repaired(bytes) == bytes)
            found.push_back(bytes);
        else
            found.insert(found.end(), bytes.size(), kReplacement);
        bytes.clear();
    };
    for (const std::string& piece : pieces) {
        const int byte = byte_of_token(piece);
        if (byte >= 0) {
            bytes += static_cast<char>(byte);
            continue;
        }
        if (!bytes.empty()) flush();
        found.push_back(piece);
    }
    if (!bytes.empty()) flush();
    return found;
}

Step replace(Fields& fields) {
    const Field pattern = fields.at("pattern");
    const auto wanted = Fields(pattern).find("String");
    pattern.must(wanted.has_value(), "it is no String, and this library reads no regular expression");
    const std::string from = wanted->text(), to = fields.at("content").text();
    pattern.must(!from.empty(), "it is empty");
    return each([from, to](const std::string& piece) {
        std::string text;
        std::size_t begin = 0;
        for (std::size_t at; (at = piece.find(from, begin)) != std::string::npos; begin = at + from.size())
            text += piece.substr(begin, at - begin) + to;
        return text + piece.substr(begin);
    });
}

char32_t character(const Field& field) {
    const std::u32string text = from_utf8(field.text());
    field.must(text.size() == 1, "it is not one character");
    return text[0];
}

Step strip(Fields& fields) {
    const char32_t content = character(fields.at("content"));
    const auto most = [&](const char* key) { return static_cast<std::size_t>(fields.at(key).integer(0, UINT32_MAX)); };
    const std::size_t start = most("start"), stop = most("stop");
    return each([content, start, stop](const std::string& piece) {
        const std::u32string text = from_utf8(piece);
        std::size_t begin = 0, end = text.size();
        while (begin < std::min(start, text.size()) && text[begin] == content) ++begin;
        while (end > begin && text.size() - end < stop && text[end - 1] == content) --end;
        return to_utf8(text.substr(begin, end - begin));
    });
}

Step metaspace(Fields& fields) {
    const char32_t mark = character(fields.at("replacement"));
    const auto scheme = fields.find("prepend_scheme");
    const bool prepended = !scheme || scheme->one_of({"always", "first", "never"}) != "never";
    if (const auto old = fields.find("add_prefix_space"))
        old->must(old->boolean() || !prepended, "it is false, and prepend_scheme is not never");
    return [mark, prepended](const Pieces& pieces) {
        Pieces found;
        for (const std::string& piece : pieces) {
            std::u32string text;
            for (const char32_t c : from_utf8(piece))
                if (c != mark)
                    text += c;
                else if (!(found.empty() && prepended))
                    text += U' ';
            found.push_back(to_utf8(text));
        }
        return found;
    };
}

// By how many times a part makes a text longer at most: a pattern may stand at every character.
std::size_t growth_of(Fields& fields, const std::string& kind) {
    if (kind == "ByteLevel" || kind == "ByteFallback") return 2;
    const auto content = fields.find("content");
    return kind == "Replace" && content ? from_utf8(content->text()).size() : 1;
}

void add(const Field& decoder, int depth, std::vector<Step>& steps, Growth& growth) {
    Fields fields(decoder);
    const std::string kind = fields.at("type").one_of(
        {"ByteLevel", "ByteFallback", "Fuse", "Metaspace", "Replace", "Strip", "Sequence"});
    growth.add(decoder, growth_of(fields, kind));
    if (kind == "Sequence") {
        decoder.must(depth < kDeepest, "sequences lie too deep in one another");
        for (const Field& inner : fields.at("decoders").list()) add(inner, depth + 1, steps, growth);
    } else if (kind == "ByteLevel") {
        steps.push_back(byte_level);
    } else if (kind == "ByteFallback") {
        steps.push_back(byte_fallback);
    } else if (kind == "Fuse") {
        steps.push_back([](const Pieces& pieces) { return Pieces{joined(pieces)}; });
    } else if (kind == "Metaspace") {
        steps.push_back(metaspace(fields));
    } else if (kind == "Replace") {
        steps.push_back(replace(fields));
    } else {
        steps.push_back(strip(fields));
    }
}

}  // namespace

std::vector<Step> decoder_steps(const Field& decoder) {
    std::vector<Step> steps;
    Growth growth;
    add(decoder, 0, steps, growth);
    return steps;
}

}  // namespace tokexport
