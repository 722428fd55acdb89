// Whisper's log-mel spectrogram: what runtimes/media/log_mel.py does with numpy, and where it is explained.
#include <algorithm>
#include <cmath>

#include "fourier.h"
#include "tokexport/errors.h"
#include "tokexport/media.h"

namespace tokexport {
namespace {

constexpr double kFloor = 1e-10, kRange = 8.0;

// Slaney: linear up to 1000 Hz, 15 mels, and from there 27 mels to every factor of 6.4.
constexpr double kHertzPerMel = 200.0 / 3, kKnee = 1000.0, kKneeMel = kKnee / kHertzPerMel;
const double kLogStep = std::log(6.4) / 27;

double mel_of(double hertz) {
    return hertz < kKnee ? hertz / kHertzPerMel : kKneeMel + std::log(hertz / kKnee) / kLogStep;
}

double hertz_of(double mel) {
    return mel < kKneeMel ? kHertzPerMel * mel : kKnee * std::exp(kLogStep * (mel - kKneeMel));
}

// Triangular filters between 0 and half the sample rate, each of area one: [mels][n_fft / 2 + 1].
std::vector<std::vector<float>> mel_filters(const LogMelRecord& record) {
    const int bins = record.n_fft / 2 + 1;
    std::vector<double> corners(static_cast<std::size_t>(record.mels) + 2);
    const double top = mel_of(record.sample_rate / 2.0);
    for (std::size_t i = 0; i < corners.size(); ++i) corners[i] = hertz_of(top * i / (record.mels + 1));
    std::vector<std::vector<float>> filters(static_cast<std::size_t>(record.mels));
    for (int m = 0; m < record.mels; ++m) {
        const double low = corners[m], middle = corners[m + 1], high = corners[m + 2];
        for (int bin = 0; bin < bins; ++bin) {
            const double hertz = record.sample_rate / 2.0 * bin / (bins - 1);
            const double height = std::min((hertz - low) / (middle - low), (high - hertz) / (high - middle));
            filters[m].push_back(static_cast<float>(std::max(0.0, height) * 2 / (high - low)));
        }
    }
    return filters;
}

void check(const Sound& sound, const LogMelRecord& record) {
    const auto seconds = [&](std::size_t samples) { return std::to_string(samples / double(record.sample_rate)); };
    if (sound.sample_rate != record.sample_rate)
        throw RequestError("the sound has " + std::to_string(sound.sample_rate) +
                               " samples a second, and the encoder " + std::to_string(record.sample_rate),
                           "", "Resample it first, for example with sox.");
    if (sound.count == 0 || sound.samples == nullptr) throw RequestError("the sound is empty");
    if (!std::all_of(sound.samples, sound.samples + sound.count, [](float value) { return std::isfinite(value); }))
        throw RequestError("the waveform holds values that are not finite");
    if (sound.count > static_cast<std::size_t>(record.samples()))
        throw RequestError("the sound lasts " + seconds(sound.count) + " s, and the encoder takes at most " +
                               seconds(static_cast<std::size_t>(record.samples())) + " s",
                           "", "Cut it into shorter pieces, best where nobody speaks.");
}

}  // namespace

Tensor input_features(const Sound& sound, const LogMelRecord& record) {
    check(sound, record);
    const std::int64_t samples = record.samples(), edge = record.n_fft / 2;
    // Mirrored at the ends, without repeating the end itself.
    const auto sample = [&](std::int64_t at) -> double {
        const std::int64_t place = at < 0 ? -at : at < samples ? at : 2 * (samples - 1) - at;
        return place < static_cast<std::int64_t>(sound.count) ? sound.samples[place] : 0.0f;
    };
    const Fourier fourier(record.n_fft);
    const auto filters = mel_filters(record);
    std::vector<double> hann(static_cast<std::size_t>(record.n_fft)), window(hann.size());
    for (std::size_t i = 0; i < hann.size(); ++i)
        hann[i] = static_cast<float>(0.5 - 0.5 * std::cos(2 * std::acos(-1.0) * i / record.n_fft));
    std::vector<float> logs(static_cast<std::size_t>(record.mels) * record.frames);
    for (int frame = 0; frame < record.frames; ++frame) {
        for (int i = 0; i < record.n_fft; ++i)
            window[i] = sample(static_cast<std::int64_t>(frame) * record.hop + i - edge) * hann[i];
        const auto spectrum = fourier(window);
        for (int m = 0; m < record.mels; ++m) {
            double power = 0;
            for (std::size_t bin = 0; bin < filters[m].size(); ++bin)
                power += filters[m][bin] * std::norm(spectrum[bin]);
            logs[std::size_t(m) * record.frames + frame] = static_cast<float>(std::log10(std::max(power, kFloor)));
        }
    }
    const float least = *std::max_element(logs.begin(), logs.end()) - static_cast<float>(kRange);
    for (float& value : logs) value = (std::max(value, least) + 4) / 4;
    return Tensor::of({1, record.mels, record.frames}, logs);
}

}  // namespace tokexport
