#include "transcribe.h"

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "recording.h"
#include "repeats.h"
#include "sound.h"
#include "speech.h"
#include "tokexport/errors.h"
#include "unicode.h"
#include "windows.h"

namespace tokexport {
namespace {

constexpr std::int64_t kLongestSeconds = 12 * 3600;
constexpr std::size_t kSpansShown = 4;

struct Span {
    double start, end;
};

// Languages that are written without spaces, so that pieces are joined without one.
bool is_unspaced(const std::string& language) {
    static const std::vector<std::string> kCodes = {"zh", "yue", "ja", "th", "lo", "my", "km", "bo"};
    return std::count(kCodes.begin(), kCodes.end(), language) > 0;
}

// Such as 1:02:03.5, or 2:03.5.
std::string clock_of(double seconds) {
    const double whole = std::nearbyint(seconds * 10) / 10;
    const auto minutes = static_cast<std::int64_t>(whole / 60);
    char text[48];
    const double rest = whole - 60.0 * static_cast<double>(minutes);
    if (minutes >= 60)
        std::snprintf(text, sizeof text, "%lld:%02lld:%04.1f", static_cast<long long>(minutes / 60),
                      static_cast<long long>(minutes % 60), rest);
    else
        std::snprintf(text, sizeof text, "%lld:%04.1f", static_cast<long long>(minutes), rest);
    return text;
}

std::string when(const Span& span) { return "between " + clock_of(span.start) + " and " + clock_of(span.end); }

// When, of spans in order; those that touch are one.
std::string shown(const std::vector<Span>& spans) {
    std::vector<Span> merged;
    for (const Span& span : spans) {
        if (!merged.empty() && merged.back().end >= span.start)
            merged.back().end = span.end;
        else
            merged.push_back(span);
    }
    std::string text;
    for (std::size_t i = 0; i < std::min(merged.size(), kSpansShown); ++i) text += (i ? ", " : "") + when(merged[i]);
    if (merged.size() <= kSpansShown) return text;
    return text + ", and " + std::to_string(merged.size() - kSpansShown) + " times more";
}

class Reader {
  public:
    Reader(const Ear& ear, const Ids& words, const std::optional<Ids>& whole, const GenerateOptions& options)
        : ear_(ear),
          record_(*ear.variant.generation),
          words_(words),
          whole_(whole),
          asked_(options),
          rules_(Rules::of(record_, options.timestamps)),
          limit_(limit_of(record_, options.max_new_tokens)) {}

    void hear(const Sound& sound, const Span& span, const Variant& variant) {
        read(sound, span, variant);
        if (is_silent(sound)) silent_.push_back(span);
    }

    // Reads the encoder's input, or samples, that stand for the sound between two times.
    void read(const Media& media, const Span& span, const Variant& variant) {
        const Tensors encoded = ear_.encode(variant, media);
        const Run run = [&](const std::string& role, Tensors inputs) {
            return ear_.run(variant, role, std::move(inputs));
        };
        const SpeechRecord& speech = *record_.speech;
        // The rest of a sound is in the language of its beginning.
        if (!whole_ && !speech.languages.empty() && asked_.language.empty())
            asked_.language = heard_language(run, variant, encoded);
        Ids prompt = whole_ ? *whole_ : speech_prompt(speech, asked_);
        if (!whole_ && answer_.pieces.empty()) prompt.insert(prompt.end(), words_.begin(), words_.end());
        const Answer said = greedy(run, variant, encoded, prompt, limit_, rules_);
        keep(said, span, variant);
    }

    Answer answer() {
        answer_.text = joined();
        answer_.language = asked_.language;
        answer_.finished = cut_off_.empty();
        add_notes();
        return std::move(answer_);
    }

  private:
    void keep(const Answer& said, const Span& span, const Variant& variant) {
        const SpeechRecord& speech = *record_.speech;
        const Ids text = text_ids(said.ids, speech);
        answer_.pieces.push_back({rounded(span.start), rounded(span.end), variant.name, said.kept_indices.size()});
        answer_.ids.insert(answer_.ids.end(), said.ids.begin(), said.ids.end());
        answer_.kept_indices.insert(answer_.kept_indices.end(), said.kept_indices.begin(), said.kept_indices.end());
        answer_.sizes.insert(answer_.sizes.end(), said.sizes.begin(), said.sizes.end());
        texts_.push_back(ear_.text(text));
        if (asked_.timestamps) {
            if (!answer_.segments) answer_.segments.emplace();
            for (Segment& segment : segments_of(said.ids, speech, ear_.text, span.start, span.end))
                answer_.segments->push_back(std::move(segment));
        }
        if (static_cast<std::int64_t>(said.ids.size()) >= limit_) cut_off_.push_back(span);
        if (const auto again = repeated(text))
            repeats_.push_back(std::to_string(again->times) + " times " + quoted(again->ids) + " " + when(span));
    }

    std::string quoted(const Ids& ids) const {
        const std::string text = stripped(ear_.text(ids));
        if (text.empty()) return text_of(ids);
        const char* const mark = text.find('\'') == std::string::npos ? "'" : "\"";
        return mark + text + mark;
    }

    std::string joined() const {
        // Ids of whole words bring their spaces with them.
        bool spaced = is_unspaced(asked_.language);
        for (const std::string& text : texts_)
            spaced |= !stripped(text).empty() && is_space(from_utf8(text).front());
        std::string all;
        for (const std::string& text : texts_)
            if (!stripped(text).empty()) all += (all.empty() || spaced ? "" : " ") + text;
        return stripped(all);
    }

    void add_notes() {
        if (!cut_off_.empty())
            answer_.notes.push_back("the limit of " + std::to_string(limit_) + " tokens cut the transcript off " +
                                    shown(cut_off_));
        if (!repeats_.empty()) {
            std::string text;
            for (std::size_t i = 0; i < std::min(repeats_.size(), kSpansShown); ++i)
                text += (i ? "; " : "") + repeats_[i];
            if (repeats_.size() > kSpansShown)
                text += "; and " + std::to_string(repeats_.size() - kSpansShown) + " more";
            answer_.notes.push_back("the transcript repeats itself, as where a model is lost: " + text);
        }
        if (!silent_.empty())
            answer_.notes.push_back("the sound is silent " + shown(silent_) +
                                    ": what is written there was likely not said");
    }

    const Ear& ear_;
    const GenerationRecord& record_;
    const Ids words_;
    const std::optional<Ids> whole_;
    GenerateOptions asked_;
    const Rules rules_;
    const std::int64_t limit_;
    Answer answer_;
    std::vector<std::string> texts_, repeats_;
    std::vector<Span> silent_, cut_off_;
};

}  // namespace

Answer transcribe(const Ear& ear, const Media& media, const Ids& words, const std::optional<Ids>& whole,
                  const GenerateOptions& options) {
    Reader reader(ear, words, whole, options);
    std::vector<Window> found = windows(ear.manifest, ear.variant);
    const auto is_own = [&](const Window& window) { return window.variant == &ear.variant; };
    if (ear.named) found.erase(std::remove_if(found.begin(), found.end(), std::not_fn(is_own)), found.end());
    const auto* sound = std::get_if<Sound>(&media);
    if (sound == nullptr) {
        const auto own = std::find_if(found.begin(), found.end(), is_own);
        reader.read(media, {0, static_cast<double>(own->samples) / own->sample_rate}, ear.variant);
        return reader.answer();
    }
    // Where no window is safe, the longest is taken.
    const Window* longest = &found.back();
    for (const Window& window : found)
        if (window.safe && (!longest->safe || window.room > longest->room)) longest = &window;
    const int rate = longest->sample_rate;
    check_sound(*sound, rate, kLongestSeconds * rate);
    const auto all = pieces(*sound, static_cast<std::size_t>(longest->room));
    for (const Piece& piece : all) {
        const Sound part{sound->samples + piece.begin, piece.end - piece.begin, rate};
        const double end = static_cast<double>(piece.end) / rate;
        reader.hear(part, {static_cast<double>(piece.begin) / rate, end},
                    *shortest(found, static_cast<std::int64_t>(part.count)).variant);
        if (options.listening && all.size() > 1) options.listening(end, static_cast<double>(sound->count) / rate);
    }
    return reader.answer();
}

}  // namespace tokexport
