// Whisper's log-mel spectrogram: what runtimes/media/log_mel.py does with numpy, and where it is explained.
#include <algorithm>
#include <cmath>

#include "fourier.h"
#include "sound.h"
#include "tokexport/media.h"

namespace tokexport {
namespace {

constexpr double kFloor = 1e-10, kRange = 8.0;

// Slaney: linear up to 1000 Hz, 15 mels, and from there 27 mels to every factor of 6.4.
constexpr double kHertzPerMel = 200.0 / 3, kKnee = 1000.0, kKneeMel = kKnee / kHertzPerMel;
const double kLogStep = std::log(6.4) / 27;

// HTK: linear at first, logarithmic from about 700 Hz on.
constexpr double kHtkMels = 2595.0, kHtkHertz = 700.0;

double mel_of(double hertz, bool htk) {
    if (htk) return kHtkMels * std::log10(1 + hertz / kHtkHertz);
    return hertz < kKnee ? hertz / kHertzPerMel : kKneeMel + std::log(hertz / kKnee) / kLogStep;
}

double hertz_of(double mel, bool htk) {
    if (htk) return kHtkHertz * (std::pow(10, mel / kHtkMels) - 1);
    return mel < kKneeMel ? kHertzPerMel * mel : kKnee * std::exp(kLogStep * (mel - kKneeMel));
}

// A triangle over a few neighbouring bins of the spectrum.
struct Filter {
    std::size_t first = 0;
    std::vector<float> weights;
};

// Between 0 and half the sample rate.
std::vector<Filter> mel_filters(const LogMelRecord& record) {
    const int bins = record.n_fft / 2 + 1;
    std::vector<double> corners(static_cast<std::size_t>(record.mels) + 2);
    const double top = mel_of(record.sample_rate / 2.0, record.htk);
    for (std::size_t i = 0; i < corners.size(); ++i) corners[i] = hertz_of(top * i / (record.mels + 1), record.htk);
    std::vector<Filter> filters(static_cast<std::size_t>(record.mels));
    for (int m = 0; m < record.mels; ++m) {
        const double low = corners[m], middle = corners[m + 1], high = corners[m + 2];
        Filter& filter = filters[m];
        for (int bin = 0; bin < bins; ++bin) {
            const double hertz = record.sample_rate / 2.0 * bin / (bins - 1);
            const double height = std::min((hertz - low) / (middle - low), (high - hertz) / (high - middle));
            if (!(height > 0)) continue;
            if (filter.weights.empty()) filter.first = static_cast<std::size_t>(bin);
            filter.weights.push_back(static_cast<float>(record.htk ? height : height * 2 / (high - low)));
        }
    }
    return filters;
}

// In the middle of n_fft.
std::vector<double> hann(const LogMelRecord& record) {
    const int length = record.window == 0 ? record.n_fft : record.window;
    std::vector<double> window(static_cast<std::size_t>(record.n_fft));
    const int before = (record.n_fft - length) / 2;
    for (int i = 0; i < length; ++i)
        window[before + i] = static_cast<float>(0.5 - 0.5 * std::cos(2 * std::acos(-1.0) * i / length));
    return window;
}

// Fills `window` with the samples of a frame; whether one of them is not zero.
bool cut(const Sound& sound, const LogMelRecord& record, int frame, const std::vector<double>& hann,
         std::vector<double>& window) {
    const std::int64_t samples = record.samples(), count = static_cast<std::int64_t>(sound.count);
    const std::int64_t begin = static_cast<std::int64_t>(frame) * record.hop - record.n_fft / 2;
    bool heard = false;
    for (int i = 0; i < record.n_fft; ++i) {
        const std::int64_t at = begin + i;
        // Mirrored at the ends, without repeating the end itself.
        const std::int64_t place = at < 0 ? -at : at < samples ? at : 2 * (samples - 1) - at;
        window[i] = place < count ? sound.samples[place] * hann[i] : 0.0;
        heard |= window[i] != 0;
    }
    return heard;
}

}  // namespace

Tensor input_features(const Sound& sound, const LogMelRecord& record) {
    check_sound(sound, record.sample_rate, record.samples());
    // In float64: a float32 transform adds what is 1e-7 of the loudest bin to the quietest ones.
    const Fourier fourier(record.n_fft);
    const auto filters = mel_filters(record);
    const auto shape = hann(record);
    std::vector<double> window(shape.size()), power(shape.size() / 2 + 1);
    std::vector<float> logs(static_cast<std::size_t>(record.mels) * record.frames,
                            static_cast<float>(std::log10(kFloor)));
    for (int frame = 0; frame < record.frames; ++frame) {
        if (!cut(sound, record, frame, shape, window)) continue;
        const auto spectrum = fourier(window);
        for (std::size_t bin = 0; bin < power.size(); ++bin) power[bin] = std::norm(spectrum[bin]);
        for (int m = 0; m < record.mels; ++m) {
            double sum = 0;
            for (std::size_t i = 0; i < filters[m].weights.size(); ++i)
                sum += filters[m].weights[i] * power[filters[m].first + i];
            logs[std::size_t(m) * record.frames + frame] = static_cast<float>(std::log10(std::max(sum, kFloor)));
        }
    }
    const float least = *std::max_element(logs.begin(), logs.end()) - static_cast<float>(kRange);
    for (float& value : logs) value = (std::max(value, least) + 4) / 4;
    return Tensor::of({1, record.mels, record.frames}, logs);
}

}  // namespace tokexport
