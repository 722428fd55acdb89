#include <sndfile.h>

#include <filesystem>
#include <memory>

#include "read.h"
#include "tokexport/errors.h"

// 100 minutes at 16 kHz, as in runtimes/media/audio.py.
constexpr std::size_t kMostSamples = 96000000;

Recording read_sound(const std::string& path) {
    std::error_code unknown;
    // Opening a pipe could block for ever.
    if (std::filesystem::exists(path, unknown) && !std::filesystem::is_regular_file(path, unknown))
        throw tokexport::RequestError(path + " is no regular file", "", "Give a sound file.");
    SF_INFO info{};
    const std::unique_ptr<SNDFILE, decltype(&sf_close)> file(sf_open(path.c_str(), SFM_READ, &info), &sf_close);
    if (!file)
        throw tokexport::RequestError(path + " cannot be read as sound: " + sf_strerror(nullptr), "",
                                      "Is it complete? Play it, and save it as a WAV file.");
    const auto channels = static_cast<std::size_t>(info.channels);
    std::vector<float> frame(channels);
    Recording recording{info.samplerate, {}};
    // The length in the header of a damaged file may be wrong.
    while (sf_readf_float(file.get(), frame.data(), 1) == 1) {
        float sum = 0;
        for (const float value : frame) sum += value;
        if (recording.samples.size() == kMostSamples)
            throw tokexport::RequestError(path + " has more than " + std::to_string(kMostSamples) + " samples", "",
                                          "Cut it into shorter pieces, best where nobody speaks.");
        recording.samples.push_back(sum / static_cast<float>(channels));
    }
    if (recording.samples.empty()) throw tokexport::RequestError(path + " holds no samples", "", "Record it again.");
    return recording;
}
