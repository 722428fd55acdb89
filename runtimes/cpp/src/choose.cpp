#include "tokexport/choose.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "tokexport/errors.h"

namespace tokexport {
namespace {

constexpr float kNever = -std::numeric_limits<float>::infinity();

using Scores = std::vector<float>;

// A number of ids, kept inside the vocabulary.
std::ptrdiff_t inside(const Scores& scores, std::int64_t id) {
    return static_cast<std::ptrdiff_t>(std::clamp<std::int64_t>(id, 0, static_cast<std::int64_t>(scores.size())));
}

void forbid(Scores& scores, std::int64_t begin, std::int64_t end) {
    const auto first = inside(scores, begin), last = inside(scores, end);
    if (first < last) std::fill(scores.begin() + first, scores.begin() + last, kNever);
}

void forbid(Scores& scores, const Ids& ids) {
    for (const std::int64_t id : ids) forbid(scores, id, id + 1);
}

// What may follow by the order of times alone.
void pair_times(Scores& scores, const Ids& said, const TimeRules& times) {
    const auto size = static_cast<std::int64_t>(scores.size());
    const auto is_time = [&](std::int64_t id) { return id >= times.first; };
    const bool ends_in_time = !said.empty() && is_time(said.back());
    // What stands before the first time counts as a time: a transcript begins with a single one.
    const bool second_too = said.size() < 2 || is_time(said[said.size() - 2]);
    if (ends_in_time && second_too) forbid(scores, times.first, size);
    if (ends_in_time && !second_too) forbid(scores, 0, times.eos);
    const auto last = std::find_if(said.rbegin(), said.rend(), is_time);
    if (last == said.rend()) return;
    const bool closes = ends_in_time && !second_too;
    forbid(scores, times.first, *last + (closes ? 0 : 1));
}

double log_of_sum(Scores::const_iterator begin, Scores::const_iterator end) {
    if (begin == end) return kNever;
    const double most = *std::max_element(begin, end);
    if (std::isinf(most)) return most;
    double sum = 0;
    for (auto score = begin; score != end; ++score) sum += std::exp(*score - most);
    return most + std::log(sum);
}

void apply_times(Scores& scores, const Ids& said, const TimeRules& times) {
    forbid(scores, Ids{times.no_timestamps});
    pair_times(scores, said, times);
    if (said.empty()) {
        forbid(scores, 0, times.first);
        if (times.latest_start)
            forbid(scores, times.first + *times.latest_start + 1, static_cast<std::int64_t>(scores.size()));
    }
    const auto first = scores.begin() + inside(scores, times.first);
    const double text = first == scores.begin() ? kNever : *std::max_element(scores.begin(), first);
    if (log_of_sum(first, scores.end()) > text) forbid(scores, 0, times.first);
}

}  // namespace

Rules Rules::of(const GenerationRecord& record, bool timestamps) {
    Rules rules{record.suppress, record.begin_suppress, std::nullopt, {}};
    if (!timestamps) return rules;
    if (!record.speech || !record.speech->timestamps || !record.speech->no_timestamps)
        throw RequestError("the model writes no times", "", "Leave out --timestamps.");
    rules.times = TimeRules{*record.speech->timestamps, *record.speech->no_timestamps,
                            *std::min_element(record.eos.begin(), record.eos.end()), record.speech->latest_start};
    return rules;
}

void Rules::apply(std::vector<float>& scores, const Ids& said) const {
    if (!only.empty()) {
        Scores allowed(scores.size(), kNever);
        for (const std::int64_t id : only)
            if (inside(scores, id) == id && id < static_cast<std::int64_t>(scores.size())) allowed[id] = scores[id];
        scores = std::move(allowed);
    }
    forbid(scores, suppress);
    if (said.empty()) forbid(scores, begin_suppress);
    if (times) apply_times(scores, said, *times);
}

}  // namespace tokexport
