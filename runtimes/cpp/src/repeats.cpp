#include "repeats.h"

#include <algorithm>

namespace tokexport {
namespace {

// An end that says the same so often is no speech any more; people rarely say a thing four times.
constexpr std::size_t kRepeats = 4;

}  // namespace

std::optional<Repeat> repeated(const Ids& ids) {
    std::size_t best = 0, most = 0;
    for (std::size_t length = 1; length <= ids.size() / kRepeats; ++length) {
        std::size_t times = 1;
        while ((times + 1) * length <= ids.size() &&
               std::equal(ids.end() - static_cast<std::ptrdiff_t>(length), ids.end(),
                          ids.end() - static_cast<std::ptrdiff_t>((times + 1) * length)))
            ++times;
        if (times >= kRepeats && length * times > most) best = length, most = length * times;
    }
    if (best == 0) return std::nullopt;
    return Repeat{Ids(ids.end() - static_cast<std::ptrdiff_t>(best), ids.end()), most / best};
}

}  // namespace tokexport
