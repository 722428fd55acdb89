// Whether an answer says the same again and again, as where a model is lost.
#pragma once

#include <optional>

#include "tokexport/words.h"

namespace tokexport {

struct Repeat {
    Ids ids;
    std::size_t times;
};

// What the end of an answer repeats at least four times; of several such ends the one that fills most of the answer, and
// of those the shortest.
std::optional<Repeat> repeated(const Ids& ids);

}  // namespace tokexport
