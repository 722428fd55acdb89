#include "windows.h"

#include <algorithm>
#include <cmath>
#include <tuple>

#include "tokexport/errors.h"

namespace tokexport {
namespace {

// A recogniser was trained on windows that end in silence, and hears by it that nothing follows; runtimes/windows.py says
// what was measured.
constexpr double kShortestSeconds = 10.0, kSilenceSeconds = 1.0;

// Its sample rate and samples; no samples: it is of no sound.
std::pair<int, std::int64_t> length_of(const Preprocess& record) {
    if (const auto* log_mel = std::get_if<LogMelRecord>(&record)) return {log_mel->sample_rate, log_mel->samples()};
    if (const auto* waveform = std::get_if<WaveformRecord>(&record)) return {waveform->sample_rate, waveform->samples};
    return {0, 0};
}

// Whether two variants compress by the same methods, to the same ratio or the same number of tokens.
bool alike(const Variant& one, const Variant& other) {
    return one.generation && std::equal(one.compression.begin(), one.compression.end(), other.compression.begin(),
                                        other.compression.end(), [](const auto& a, const auto& b) {
                                            return std::tie(a.method, a.params, a.size_bias, a.seam.kind) ==
                                                       std::tie(b.method, b.params, b.size_bias, b.seam.kind) &&
                                                   (a.ratio == b.ratio || a.tokens_out == b.tokens_out);
                                        });
}

}  // namespace

const Preprocess& preprocess_of(const Manifest& manifest, const Variant& variant) {
    return std::holds_alternative<std::monostate>(variant.preprocess) ? manifest.preprocess : variant.preprocess;
}

std::vector<Window> windows(const Manifest& manifest, const Variant& variant) {
    std::vector<Window> found;
    // The model's own window: it was trained on speech that fills it.
    std::int64_t whole = length_of(manifest.preprocess).second;
    for (const Variant& each : manifest.variants) {
        if (!alike(each, variant)) continue;
        const auto [rate, samples] = length_of(preprocess_of(manifest, each));
        if (samples == 0)
            throw BundleError("the bundle has a record of speech, and none of how a sound becomes the input of " +
                                  each.name,
                              "manifest.json", "Export the bundle again.");
        found.push_back({&each, rate, samples, samples, true});
        whole = std::max(whole, samples);
    }
    for (Window& window : found) {
        if (window.samples == whole) continue;
        const auto silence = static_cast<std::int64_t>(std::nearbyint(kSilenceSeconds * window.sample_rate));
        window.room = std::max(window.samples - silence, window.samples / 2);
        window.safe = static_cast<double>(window.samples) >= kShortestSeconds * window.sample_rate;
    }
    std::stable_sort(found.begin(), found.end(), [&](const Window& a, const Window& b) {
        return std::pair(a.samples, a.variant->name != variant.name) <
               std::pair(b.samples, b.variant->name != variant.name);
    });
    return found;
}

const Window& shortest(const std::vector<Window>& windows, std::int64_t samples) {
    const Window* last = nullptr;
    for (const Window& window : windows) {
        if (!window.safe) continue;
        last = &window;
        if (window.room >= samples) return window;
    }
    return last != nullptr ? *last : windows.back();
}

}  // namespace tokexport
