#include <sndfile.h>

#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>

#include "read.h"
#include "tokexport/errors.h"

// 100 minutes at 16 kHz, as in runtimes/media/audio.py.
constexpr std::size_t kMostSamples = 96000000;
// Of the power of the channels, there too.
constexpr double kCancelled = 1e-4;

namespace {

// Whether a WAV file holds as many bytes of samples as it says; libsndfile reads those that are there. One whose length
// was not known when its header was written says one that is near 2^31 or 2^32.
bool is_whole(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    char head[12] = {}, chunk[8] = {};
    if (!file.read(head, sizeof head) || std::memcmp(head, "RIFF", 4) != 0 || std::memcmp(head + 8, "WAVE", 4) != 0)
        return true;
    std::error_code unknown;
    const std::uintmax_t size = std::filesystem::file_size(path, unknown);
    std::uintmax_t at = sizeof head;
    while (at < size && file.seekg(static_cast<std::streamoff>(at)) && file.read(chunk, sizeof chunk)) {
        std::uintmax_t length = 0;
        for (int i = 7; i > 3; --i) length = length << 8 | static_cast<unsigned char>(chunk[i]);
        at += sizeof chunk;
        if (std::memcmp(chunk, "data", 4) == 0) return length >= 0x7FFF0000 || at + length <= size;
        at += length + length % 2;
    }
    return true;
}

tokexport::RequestError cut_short(const std::string& path) {
    return tokexport::RequestError(
        path + " is cut short: it holds fewer samples than its header says", "",
        "Copy it again; where nothing more is left of it, save what there is as a new WAV file.");
}

}  // namespace

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
    if (!is_whole(path)) throw cut_short(path);
    const auto channels = static_cast<std::size_t>(info.channels);
    std::vector<float> frame(channels);
    Recording recording{info.samplerate, {}};
    double before = 0, after = 0;
    // The length in the header of a damaged file may be wrong.
    while (sf_readf_float(file.get(), frame.data(), 1) == 1) {
        float sum = 0;
        for (const float value : frame) {
            sum += value;
            before += static_cast<double>(value) * value / static_cast<double>(channels);
        }
        if (recording.samples.size() == kMostSamples)
            throw tokexport::RequestError(path + " has more than " + std::to_string(kMostSamples) + " samples", "",
                                          "Cut it into shorter pieces, best where nobody speaks.");
        recording.samples.push_back(sum / static_cast<float>(channels));
        after += static_cast<double>(recording.samples.back()) * recording.samples.back();
    }
    if (sf_error(file.get()) != SF_ERR_NO_ERROR) throw cut_short(path);
    if (recording.samples.empty()) throw tokexport::RequestError(path + " holds no samples", "", "Record it again.");
    if (after < kCancelled * before)
        throw tokexport::RequestError("the channels of " + path + " cancel each other: averaged, nothing of it can be heard",
                                      "", "Take one of them, for example: sox " + path + " ONE.wav remix 1");
    return recording;
}
