#include "recording.h"

#include <algorithm>
#include <cmath>

namespace tokexport {
namespace {

// A word has gaps of 50 ms, as before a "p"; a pause between words is longer.
constexpr double kPauseSeconds = 0.2, kFrameSeconds = 0.02;
// Below the noise of a quiet room through any microphone.
constexpr double kSilence = 1e-3;

std::size_t frame_of(int sample_rate) {
    return static_cast<std::size_t>(std::max(1.0, std::nearbyint(sample_rate * kFrameSeconds)));
}

// The mean square of each frame; the samples behind the last whole one are left out.
std::vector<double> energy(const float* samples, std::size_t count, std::size_t frame) {
    std::vector<double> found(count / frame);
    for (std::size_t i = 0; i < found.size(); ++i) {
        for (std::size_t k = 0; k < frame; ++k) {
            const double value = samples[i * frame + k];
            found[i] += value * value;
        }
        found[i] /= static_cast<double>(frame);
    }
    return found;
}

// The middle of the quietest pause in the last third, of equal ones the last; at least 1.
std::size_t quietest(const float* samples, std::size_t count, int sample_rate) {
    const std::size_t first = count * 2 / 3, frame = frame_of(sample_rate);
    const auto levels = energy(samples + first, count - first, frame);
    if (levels.empty()) return count;
    const auto pause = static_cast<std::size_t>(std::nearbyint(kPauseSeconds / kFrameSeconds));
    const std::size_t width = std::min(levels.size(), pause);
    std::size_t best = 0;
    double least = INFINITY;
    for (std::size_t at = 0; at + width <= levels.size(); ++at) {
        double level = 0;
        for (std::size_t k = 0; k < width; ++k) level += levels[at + k];
        // The last: the piece keeps its silence, by which the model knows that it is at its end.
        if (level <= least) least = level, best = at;
    }
    return first + best * frame + (width * frame + 1) / 2;
}

}  // namespace

std::vector<Piece> pieces(const Sound& sound, std::size_t room) {
    std::vector<Piece> found;
    std::size_t begin = 0;
    while (sound.count - begin > room) {
        const std::size_t end = begin + quietest(sound.samples + begin, room, sound.sample_rate);
        found.push_back({begin, end});
        begin = end;
    }
    found.push_back({begin, sound.count});
    return found;
}

bool is_silent(const Sound& sound) {
    const std::size_t frame = frame_of(sound.sample_rate);
    std::vector<float> whole(sound.samples, sound.samples + sound.count);
    whole.resize((sound.count + frame - 1) / frame * frame);
    const auto levels = energy(whole.data(), whole.size(), frame);
    return std::all_of(levels.begin(), levels.end(), [](double level) { return level < kSilence * kSilence; });
}

}  // namespace tokexport
