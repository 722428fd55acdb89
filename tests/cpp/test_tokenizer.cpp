#include "says.h"
#include "tokexport/errors.h"
#include "tokexport/tokenizer.h"
#include "toy.h"

using namespace tokexport;

static const std::string kTokenizer = R"({"version": "1.0",
  "added_tokens": [{"id": 5, "content": "<s>", "special": true}, {"id": 6, "content": "<|0.00|>", "special": false}],
  "decoder": {"type": "Sequence", "decoders": [
    {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
    {"type": "ByteFallback"}, {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
  "model": {"type": "BPE", "vocab": {"▁he": 0, "llo": 1, "<0xC3>": 2, "<0xA9>": 3, "▁": 4}, "merges": []}})";

static Tokenizer load(const std::string& text) {
    toy::Folder folder;
    return Tokenizer::load(folder.write("tokenizer.json", text));
}

TEST_CASE("pieces of SentencePiece become a text") {
    const Tokenizer read = load(kTokenizer);
    CHECK(read.decode({0, 1, 4, 2, 3, 0}) == "hello é he");
    CHECK(read.decode({}).empty());
    CHECK(read.vocabulary() == 7);
}

TEST_CASE("special tokens are left out, added ones are not, and ids that nobody has are skipped") {
    CHECK(load(kTokenizer).decode({5, 6, 0, 99, -1, 5, 1}) == "<|0.00|> hello");
}

TEST_CASE("a byte that ends no character reads as one sign for each byte") {
    const Tokenizer read = load(kTokenizer);
    CHECK(read.decode({2, 1}) == "\uFFFDllo");
    CHECK(read.decode({3, 2}) == "\uFFFD\uFFFD");
}

TEST_CASE("the bytes of GPT-2, where a character that is cut short is one sign") {
    const std::string gpt = R"({"decoder": {"type": "ByteLevel"},
      "model": {"vocab": {"Ġa": 0, "Ã": 1, "©": 2, "ð": 3, "Ł": 4, "ĳ": 5, "€": 6}}})";
    const Tokenizer read = load(gpt);
    CHECK(read.decode({0, 1, 2}) == " a\u00e9");
    CHECK(read.decode({3, 4, 5, 0}) == "\uFFFD a");
    CHECK(read.decode({2, 2}) == "\uFFFD\uFFFD");
    // No byte is written so: the token stands for itself.
    CHECK(read.decode({6}) == "€");
}

TEST_CASE("a damaged tokenizer, or one with a decoder that is not known, is refused by its place") {
    for (const auto& [from, to, said] :
         {std::tuple{"\"Fuse\"", "\"Melt\"", "at decoder.decoders.2.type: it cannot be 'Melt'"},
          {"{\"String\": \"▁\"}", "{\"Regex\": \"▁\"}", "no regular expression"},
          {"{\"String\": \"▁\"}", "{\"String\": \"\"}", "it is empty"},
          {"\"content\": \" \", \"start\"", "\"content\": \"ab\", \"start\"", "not one character"},
          {"\"start\": 1", "\"start\": -1", "at decoder.decoders.3.start"},
          {"\"BPE\"", "\"Neural\"", "at model.type: it cannot be 'Neural'"},
          {"\"llo\": 1", "\"llo\": -1", "at model.vocab.llo"},
          {"\"vocab\"", "\"words\"", "field 'vocab' is missing"},
          {"\"content\": \"<s>\"", "\"token\": \"<s>\"", "at added_tokens.0: field 'content' is missing"},
          {"{\"version\"", "[\"version\"", "the tokenizer cannot be read"}}) {
        INFO(from, " -> ", to);
        CHECK_SAYS(load(toy::with(kTokenizer, from, to)), BundleError, said);
    }
    CHECK_SAYS(Tokenizer::load("nowhere.json"), BundleError, "the tokenizer cannot be read: No such file");
    std::string deep = "{\"type\": \"Fuse\"}";
    for (int i = 0; i < 100; ++i) deep = "{\"type\": \"Sequence\", \"decoders\": [" + deep + "]}";
    CHECK_SAYS(load("{\"model\": {\"vocab\": {}}, \"decoder\": " + deep + "}"), BundleError, "too deep");
}
