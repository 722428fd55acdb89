#include "says.h"
#include "tokexport/errors.h"
#include "tokexport/words.h"
#include "toy.h"

using namespace tokexport;

static const std::string kWords =
    R"({"words": ["<pad>", "<bos>", "<eos>", "what", "colour", "?", ".", "...", "über"], "pad": 0, "bos": 1, "eos": 2,
        "spellings": {"color": "colour"}})";

static Words load(const std::string& text) {
    toy::Folder folder;
    return Words::load(folder.write("words.json", text));
}

TEST_CASE("a text becomes ids") {
    const Words words = load(kWords);
    CHECK(words.prompt("What  COLOR?") == Ids{1, 3, 4, 5});
    CHECK(words.tokenize("what....") == Ids{3, 7, 6});
    CHECK(words.tokenize("ÜBER\u3000what") == Ids{8, 3});
    CHECK(words.tokenize("").empty());
}

TEST_CASE("an unknown word is refused with one that is like it") {
    const Words words = load(kWords);
    CHECK_SAYS(words.tokenize("what colours ?"), RequestError, "Did you mean colour?");
    CHECK_SAYS(words.tokenize("<eos>"), RequestError, "does not know the word '<eos>'");
    CHECK_SAYS(words.tokenize("what \xff"), RequestError, "byte 5 of the text is not UTF-8");
    CHECK_SAYS(words.tokenize("\xed\xa0\x80"), RequestError, "not UTF-8");
    CHECK_SAYS(words.tokenize("\xc3"), RequestError, "not UTF-8");
}

TEST_CASE("ids become a text up to the end") {
    const Words words = load(kWords);
    CHECK(words.detokenize({1, 3, 0, 4, 2, 5}) == "what colour");
    CHECK_SAYS(words.detokenize({9}), GraphError, "id 9");
    CHECK_SAYS(words.detokenize({-1}), GraphError, "id -1");
}

TEST_CASE("a damaged vocabulary is refused") {
    for (const auto& [from, to] : {std::pair{"\"pad\": 0", "\"pad\": 9"},
                                   {"\"eos\": 2", "\"eos\": [2, 9]"},
                                   {"\"what\"", "\"?\""},
                                   {"\"what\"", "3"},
                                   {"\"bos\": 1,", ""},
                                   {"{\"words\"", "[\"words\""},
                                   {"\"pad\": 0", "\"pad\": 0, \"more\": 1"},
                                   {": \"colour\"", ": 4"}}) {
        INFO(from, " -> ", to);
        CHECK_SAYS(load(toy::with(kWords, from, to)), BundleError, "the vocabulary is damaged");
    }
    CHECK_SAYS(Words::load("nowhere.json"), BundleError, "the vocabulary is damaged");
}
