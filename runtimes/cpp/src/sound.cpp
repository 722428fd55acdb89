#include "sound.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <numeric>

#include "tokexport/errors.h"

namespace tokexport {
namespace {

// Full scale is 1, which a decoder overshoots a little; 16-bit samples that were not divided reach thousands.
constexpr float kLoudest = 16;

// "30" or "0.1", without the zeros that std::to_string writes.
std::string seconds(double samples, int sample_rate) {
    char text[32];
    std::snprintf(text, sizeof text, "%.7g", samples / sample_rate);
    return text;
}

}  // namespace

void check_sound(const Sound& sound, int sample_rate, std::int64_t most) {
    if (sound.sample_rate != sample_rate) {
        const std::string rate = std::to_string(sample_rate);
        throw RequestError("the sound has " + std::to_string(sound.sample_rate) +
                               " samples a second, and the encoder takes " + rate,
                           "", "Resample it first, for example: sox IN.wav -r " + rate + " OUT.wav");
    }
    if (sound.count == 0 || sound.samples == nullptr)
        throw RequestError("the sound is empty", "", "Record it again.");
    if (!std::all_of(sound.samples, sound.samples + sound.count, [](float value) { return std::isfinite(value); }))
        throw RequestError("the sound holds values that are not finite", "", "Save it as 16-bit samples.");
    const float loudest = std::accumulate(sound.samples, sound.samples + sound.count, 0.0f, [](float most, float value) {
        return std::max(most, std::fabs(value));
    });
    if (loudest > kLoudest)
        throw RequestError("the sound reaches " + std::to_string(std::lround(std::min(loudest, 1e9f))) +
                               ", and full scale is 1: a model would hear something else",
                           "", "Divide 16-bit samples by 32768, and 24-bit samples by 8388608.");
    if (sound.count > static_cast<std::size_t>(most))
        throw RequestError("the sound lasts " + seconds(static_cast<double>(sound.count), sample_rate) +
                               " s, and the encoder takes at most " + seconds(static_cast<double>(most), sample_rate) +
                               " s (" + std::to_string(most) + " samples)",
                           "", "Cut it into shorter pieces, best where nobody speaks.");
}

Tensor input_values(const Sound& sound, const WaveformRecord& record) {
    check_sound(sound, record.sample_rate, record.samples);
    std::vector<float> values(sound.samples, sound.samples + sound.count);
    if (record.normalize) {
        double sum = 0, squares = 0;
        for (const float value : values) sum += value;
        const double mean = sum / static_cast<double>(values.size());
        for (const float value : values) squares += (value - mean) * (value - mean);
        const double scale = std::sqrt(squares / static_cast<double>(values.size()) + 1e-7);
        for (float& value : values) value = static_cast<float>((value - mean) / scale);
    }
    values.resize(static_cast<std::size_t>(record.samples));
    return Tensor::of({1, record.samples}, values);
}

}  // namespace tokexport
