// Which token comes next: the most likely one among those that the rules of the bundle allow (runtimes/choose.py).
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "tokexport/manifest.h"
#include "tokexport/words.h"

namespace tokexport {

// How a transcript with times is written, as by Whisper: it begins with a time; a time stands before a text and another
// one behind it; times never go back; and where all times together are likelier than the likeliest other token, it is a
// time.
struct TimeRules {
    std::int64_t first;                        // id of 0.00 s; all ids from it on are times
    std::int64_t no_timestamps;                // id that says that no times are wanted
    std::int64_t eos;                          // ids below it are text
    std::optional<std::int64_t> latest_start;  // the first time is at most so many ids after `first`; none: any
};

struct Rules {
    Ids suppress, begin_suppress;    // ids that are never chosen; that are not chosen as the first of an answer
    std::optional<TimeRules> times;  // none: the answer has no times
    Ids only;                        // nothing but these may be chosen; empty: all

    // Those of a bundle. RequestError: `timestamps`, and its model writes none.
    static Rules of(const GenerationRecord& record, bool timestamps = false);

    // Sets to -inf the scores [V] of what may not follow the ids of an answer.
    void apply(std::vector<float>& scores, const Ids& said) const;
};

}  // namespace tokexport
