#include "tokexport/media.h"

#include "tokexport/errors.h"

namespace tokexport {

Tensor encoder_input(const Media& media, const Preprocess& record) {
    if (const auto* ready = std::get_if<Tensor>(&media)) return *ready;
    if (std::holds_alternative<std::monostate>(record))
        throw RequestError("the bundle does not say how a picture, a video or a sound becomes the encoder's input",
                           "manifest.json", "Pass the encoder's input as a tensor.");
    if (const auto* video = std::get_if<VideoRecord>(&record))
        throw RequestError("the bundle takes a video, and this library reads none", "",
                           "Pass pixel_values as a tensor: float32 [1, " + std::to_string(video->frames) + ", 3, " +
                               std::to_string(video->frame.height) + ", " + std::to_string(video->frame.width) +
                               "]. Or ask about its frames, one picture for each.");
    const auto* log_mel = std::get_if<LogMelRecord>(&record);
    const auto* waveform = std::get_if<WaveformRecord>(&record);
    if (const auto* sound = std::get_if<Sound>(&media)) {
        if (log_mel != nullptr) return input_features(*sound, *log_mel);
        if (waveform != nullptr) return input_values(*sound, *waveform);
        throw RequestError("a sound is not an image", "", "The bundle takes an image.");
    }
    if (const auto* fit = std::get_if<PreprocessRecord>(&record)) return pixel_values(std::get<Image>(media), *fit);
    const int rate = log_mel != nullptr ? log_mel->sample_rate : waveform->sample_rate;
    throw RequestError("an image is not a sound", "", "Give a waveform at " + std::to_string(rate) + " Hz.");
}

}  // namespace tokexport
