#include "asking_records.h"

#include <tuple>

namespace tokexport {

SpeechRecord speech_of(const Field& field, std::int64_t vocabulary) {
    Fields fields(field);
    SpeechRecord record;
    record.start = fields.at("start").integer(0, vocabulary - 1);
    const auto named = [&](const char* key, std::map<std::string, std::int64_t>& ids) {
        if (const auto found = fields.find(key))
            for (const auto& [name, id] : found->items()) ids[name] = id.integer(0, vocabulary - 1);
    };
    named("languages", record.languages);
    named("tasks", record.tasks);
    const auto whole = [&](const char* key, std::int64_t most) -> std::optional<std::int64_t> {
        const auto found = fields.optional(key);
        return found ? std::optional(found->integer(0, most)) : std::nullopt;
    };
    record.no_timestamps = whole("no_timestamps", vocabulary - 1);
    record.timestamps = whole("timestamps", vocabulary - 1);
    if (record.timestamps) fields.at("timestamps").must(*record.timestamps > 0, "no word stands before the times");
    record.latest_start = whole("latest_start", INT64_MAX);
    if (const auto seconds = fields.find("timestamp_seconds")) {
        record.timestamp_seconds = seconds->number();
        seconds->must(record.timestamp_seconds > 0, "it is not more than 0");
    }
    fields.done();
    return record;
}

void check_prompt(const Field& field, const GenerationRecord& record) {
    Fields fields(field);
    for (const char* text : {"before", "after"}) fields.at(text).text();
    const std::int64_t image = fields.at("image").integer(0, record.vocabulary - 1);
    field.must(record.images == 1 || image == record.placeholder, "its image is not `placeholder`");
    std::int64_t asked = 1;
    if (const auto several = fields.optional("several"))
        for (const Field& before : several->list()) {
            before.text();
            ++asked;
        }
    field.must(asked == record.images, "it does not say how each number of images is asked about");
    for (const char* flag : {"add_special_tokens", "strips"})
        if (const auto found = fields.find(flag)) found->boolean();
    fields.done();
}

bool heard_alike(const SpeechRecord& one, const SpeechRecord& other) {
    const auto told = [](const SpeechRecord& speech) {
        return std::tie(speech.start, speech.languages, speech.tasks, speech.no_timestamps, speech.timestamps);
    };
    return told(one) == told(other);
}

}  // namespace tokexport
