// The rules of runtimes/choose.py by hand; test_choose.py compares them with those of transformers.
#include <algorithm>
#include <cmath>

#include "says.h"
#include "tokexport/choose.h"
#include "tokexport/errors.h"

using namespace tokexport;

namespace {

// Text, then the special ids, then times: the order of Whisper's vocabulary.
constexpr int kEos = 6, kNoTimes = 9, kFirst = 10, kVocabulary = 20;

std::int64_t best(std::vector<float> scores, const Ids& said, const Rules& rules) {
    rules.apply(scores, said);
    return std::max_element(scores.begin(), scores.end()) - scores.begin();
}

}  // namespace

TEST_CASE("what is suppressed is never chosen, what may not begin may follow") {
    CHECK(best({0, 5, 1, 9}, {}, {{3, 1}, {}, {}, {}}) == 2);
    CHECK(best({0, 5, 1, 9}, {2}, {{3, 1}, {}, {}, {}}) == 2);
    CHECK(best({0, 5, 1, 9}, {}, {{}, {3}, {}, {}}) == 1);
    CHECK(best({0, 5, 1, 9}, {1}, {{}, {3}, {}, {}}) == 3);
}

TEST_CASE("only some ids are candidates, and ids beyond the logits are no matter") {
    CHECK(best({9, 8, 1, 2}, {}, {{}, {}, {}, {2, 3}}) == 3);
    CHECK(best({9, 8, 1, 2}, {}, {{0, 70, -3}, {4}, {}, {}}) == 1);
    CHECK(best({9, 8, 1, 2}, {}, {{}, {}, {}, {1, 90}}) == 1);
}

TEST_CASE("times stand in pairs") {
    std::vector<float> scores = {5, 0, 0, 0, 0, 0, 1, 0, 0, 9, 3.5, 3, 3, 3, 3, 3, 3, 3, 3, 4};
    const Rules rules{{}, {}, TimeRules{kFirst, kNoTimes, kEos, 1}, {}};
    CHECK(best(scores, {}, rules) == kFirst);          // It begins with a time, and at most with the second one.
    CHECK(best(scores, {kFirst}, rules) == 0);         // Behind the first time comes text.
    CHECK(best(scores, {kFirst, 0}, rules) == 19);     // All times together are likelier than the word.
    CHECK(best(scores, {kFirst, 0, 15}, rules) == 19); // Behind a time that ends a text comes another time, or the end.
    CHECK(best(scores, {kFirst, 0, 15, 15}, rules) == 0);
    scores[0] = 50;
    CHECK(best(scores, {kFirst, 0}, rules) == 0);
}

TEST_CASE("the rules of a record are those that it names") {
    GenerationRecord record{true, 0, 1, 2, 5, 3, kVocabulary, 1, 0, {kEos, 7}};
    record.suppress = {7};
    record.begin_suppress = {8};
    CHECK_SAYS(Rules::of(record, true), RequestError, "the model writes no times");
    SpeechRecord speech;
    speech.no_timestamps = kNoTimes;
    speech.timestamps = kFirst;
    speech.latest_start = 2;
    record.speech = speech;
    const Rules rules = Rules::of(record, true);
    CHECK(rules.suppress == Ids{7});
    CHECK(rules.begin_suppress == Ids{8});
    REQUIRE(rules.times);
    CHECK(rules.times->first == kFirst);
    CHECK(rules.times->eos == kEos);
    CHECK(rules.times->latest_start == 2);
    CHECK(!Rules::of(record).times);
}
