#include <sndfile.h>

#include <memory>

#include "read.h"
#include "tokexport/errors.h"

Recording read_sound(const std::string& path) {
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
        recording.samples.push_back(sum / static_cast<float>(channels));
    }
    if (recording.samples.empty()) throw tokexport::RequestError(path + " holds no samples", "", "Record it again.");
    return recording;
}
