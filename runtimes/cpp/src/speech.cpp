#include "speech.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>

#include "tokexport/errors.h"
#include "unicode.h"

namespace tokexport {
namespace {

std::string lowered(const std::string& text) {
    std::u32string found;
    for (const char32_t c : from_utf8(text)) found += lower(c);
    return to_utf8(found);
}

std::string known(const std::string& name, const std::string& value, const std::map<std::string, std::int64_t>& ids,
                  const std::string& where) {
    if (value.empty()) return value;
    if (ids.empty())
        throw RequestError("the model takes no " + name + ": it has one, and no id for it", where,
                           "Leave " + name + " (--" + name + ") out.");
    for (const auto& item : ids)
        if (lowered(item.first) == lowered(value)) return item.first;
    // Names of languages are not near their codes: "german" is nearer to "en" than to "de".
    const bool is_name = name == "language" && value.size() > 3;
    throw RequestError("the model lacks the " + name + " '" + value + "'", where,
                       nearest(is_name ? "" : value, keys(ids), name == "language" ? "languages, by code" : name + "s"));
}

}  // namespace

std::vector<std::string> asked_for(const GenerateOptions& options) {
    std::vector<std::string> names;
    if (!options.language.empty()) names.push_back("language");
    if (!options.task.empty()) names.push_back("task");
    if (options.timestamps) names.push_back("timestamps");
    return names;
}

GenerateOptions checked(GenerateOptions options, const GenerationRecord& record, const std::string& where) {
    if (!record.speech) {
        for (const std::string& name : asked_for(options))
            throw RequestError(name + " is for recognisers of speech, and this model is none that takes it", where,
                               "Leave " + name + " (--" + name + ") out.");
        return options;
    }
    if (options.timestamps && !(record.speech->timestamps && record.speech->no_timestamps))
        throw RequestError("the model writes no times", where, "Leave timestamps (--timestamps) out.");
    options.language = known("language", options.language, record.speech->languages, where);
    options.task = known("task", options.task, record.speech->tasks, where);
    return options;
}

Ids speech_prompt(const SpeechRecord& record, const GenerateOptions& options) {
    Ids ids = {record.start};
    if (!record.languages.empty()) ids.push_back(record.languages.at(options.language));
    if (!record.tasks.empty()) {
        const std::string usual = record.tasks.count("transcribe") ? "transcribe" : record.tasks.begin()->first;
        ids.push_back(record.tasks.at(options.task.empty() ? usual : options.task));
    }
    if (record.no_timestamps && !options.timestamps) ids.push_back(*record.no_timestamps);
    return ids;
}

std::string heard_language(const Run& run, const Variant& variant, const Tensors& encoded) {
    const SpeechRecord& record = *variant.generation->speech;
    Rules rules;
    for (const auto& item : record.languages) rules.only.push_back(item.second);
    const Ids ids = greedy(run, variant, encoded, {record.start}, 1, rules).ids;
    for (const auto& [code, id] : record.languages)
        if (!ids.empty() && ids[0] == id) return code;
    throw GraphError("the id of a language is one that ends an answer", "", "Export the bundle again.");
}

Ids text_ids(const Ids& ids, const SpeechRecord& record) {
    Ids found;
    std::copy_if(ids.begin(), ids.end(), std::back_inserter(found),
                 [&](std::int64_t id) { return !record.timestamps || id < *record.timestamps; });
    return found;
}

std::vector<Segment> segments_of(const Ids& ids, const SpeechRecord& record,
                                 const std::function<std::string(const Ids&)>& text, double start, double end) {
    std::vector<Segment> found;
    Ids words;
    double opened = start;
    const auto close = [&](double at) {
        if (!words.empty()) found.push_back({rounded(opened), rounded(at), stripped(text(words))});
        words.clear();
        opened = at;
    };
    for (const std::int64_t id : ids) {
        if (id < *record.timestamps)
            words.push_back(id);
        else
            close(std::min(start + static_cast<double>(id - *record.timestamps) * record.timestamp_seconds, end));
    }
    close(end);
    return found;
}

std::string stripped(const std::string& text) {
    std::u32string found = from_utf8(text);
    const auto first = std::find_if_not(found.begin(), found.end(), is_space);
    const auto last = std::find_if_not(found.rbegin(), std::make_reverse_iterator(first), is_space).base();
    return to_utf8(std::u32string(first, last));
}

double rounded(double seconds) {
    // Printing rounds exactly, ties to even, as Python's round does; a product with 1000 would not.
    char text[64];
    std::snprintf(text, sizeof text, "%.3f", seconds);
    return std::strtod(text, nullptr);
}

}  // namespace tokexport
