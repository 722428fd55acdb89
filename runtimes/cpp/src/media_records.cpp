#include "media_records.h"

#include <algorithm>

namespace tokexport {
namespace {

constexpr std::int64_t kInt = INT32_MAX;
// No model takes a larger picture or spectrogram; refused before memory is allocated.
constexpr std::int64_t kMostPixels = std::int64_t{1} << 24;
constexpr std::int64_t kLongestSide = std::int64_t{1} << 12;
constexpr std::int64_t kLargest = std::int64_t{1} << 26;
constexpr std::int64_t kLongestWindow = 1 << 16;
constexpr std::int64_t kMostTiles = 64;

using Names = std::vector<std::string>;

const Names kFilters = {"nearest", "bilinear", "bicubic", "lanczos"};
const Names kCrops = {"none", "center", "pad"};

std::array<double, 3> three(const Field& field) {
    const auto values = field.list();
    field.must(values.size() == 3, "it is not three numbers");
    return {values[0].number(), values[1].number(), values[2].number()};
}

// Height and width whose product is at most so many pixels.
std::array<int, 2> sides_of(const Field& size, std::int64_t most = kMostPixels) {
    const auto pair = size.integers(1, kInt);
    size.must(pair.size() == 2 && pair[0] <= most / pair[1],
              text_of(pair) + " is no height and width of at most " + std::to_string(most) + " pixels");
    return {static_cast<int>(pair[0]), static_cast<int>(pair[1])};
}

TilesRecord tiles_of(const Field& field, const PreprocessRecord& whole) {
    Fields fields(field);
    const Field grid = fields.at("grid"), fitted = fields.at("fitted");
    const auto sides = grid.integers(1, kMostTiles);
    grid.must(sides.size() == 2, text_of(sides) + " is no number of rows and columns");
    const auto [height, width] = sides_of(fitted);
    const TilesRecord record{static_cast<int>(sides[0]), static_cast<int>(sides[1]), height, width};
    const std::int64_t pixels = static_cast<std::int64_t>(whole.height) * whole.width;
    grid.must(1 + record.count() <= kMostPixels / pixels,
              "that many tiles have more than " + std::to_string(kMostPixels) + " pixels");
    fitted.must(height <= sides[0] * whole.height && width <= sides[1] * whole.width,
                "it is larger than all tiles together");
    fields.done();
    return record;
}

PreprocessRecord image_of(Fields& fields) {
    PreprocessRecord record;
    const auto [height, width] = sides_of(fields.at("size"));
    record.height = height, record.width = width;
    record.resample = named<PreprocessRecord::Resample>(fields.at("resample"), kFilters);
    if (const auto crop = fields.find("crop")) record.crop = named<PreprocessRecord::Crop>(*crop, kCrops);
    if (const auto shortest = fields.optional("shortest")) {
        record.shortest = static_cast<int>(shortest->integer(1, kLongestSide));
        shortest->must(record.crop == PreprocessRecord::Crop::center &&
                           record.shortest >= std::max(record.height, record.width),
                       "it is of crop center alone, and covers the size");
    }
    if (const auto antialias = fields.find("antialias")) record.antialias = antialias->boolean();
    if (const auto rescale = fields.find("rescale")) record.rescale = rescale->number();
    record.mean = three(fields.at("mean"));
    record.std = three(fields.at("std"));
    if (const auto layout = fields.find("layout")) layout->one_of({"NCHW"});
    if (const auto tiles = fields.optional("tiles")) record.tiles = tiles_of(*tiles, record);
    return record;
}

LogMelRecord log_mel_of(const Field& field, Fields& fields) {
    const auto whole = [&](const char* key, std::int64_t least, std::int64_t most) {
        return static_cast<int>(fields.at(key).integer(least, most));
    };
    LogMelRecord record{whole("sample_rate", 1, kInt), whole("n_fft", 2, kLongestWindow), whole("hop", 1, kInt),
                        whole("mels", 1, kInt), whole("frames", 1, kInt)};
    if (const auto window = fields.optional("window")) {
        record.window = static_cast<int>(window->integer(1, kLongestWindow));
        window->must(record.window <= record.n_fft, "it is longer than n_fft, " + std::to_string(record.n_fft));
    }
    if (const auto scale = fields.optional("scale")) record.htk = scale->one_of({"htk"}) == "htk";
    field.must(record.samples() > record.n_fft / 2, std::to_string(record.samples()) +
                                                        " samples cannot be mirrored at the ends for windows of " +
                                                        std::to_string(record.n_fft));
    const std::int64_t tallest = std::max<std::int64_t>(record.frames, record.n_fft);
    field.must(record.samples() <= kLargest && tallest <= kLargest / record.mels &&
                   record.frames <= kLargest / record.n_fft,
               "the sound or its spectrogram has more than " + std::to_string(kLargest) + " values");
    return record;
}

WaveformRecord waveform_of(Fields& fields) {
    WaveformRecord record;
    record.sample_rate = static_cast<int>(fields.at("sample_rate").integer(1, kInt));
    record.samples = fields.at("samples").integer(1, kLargest);
    if (const auto normalize = fields.find("normalize")) record.normalize = normalize->boolean();
    return record;
}

VideoRecord video_of(Fields& fields) {
    Fields frame(fields.at("frame"));
    if (const auto kind = frame.find("kind")) kind->one_of({"image"});
    const VideoRecord record{static_cast<int>(fields.at("frames").integer(1, kInt)), image_of(frame)};
    fields.at("frame").must(!record.frame.tiles, "frames have no tiles");
    frame.done();
    return record;
}

}  // namespace

Preprocess preprocess_of(const Field& field) {
    Fields fields(field);
    const auto kind = fields.find("kind");
    const std::string name = kind ? kind->one_of({"image", "video", "log_mel", "waveform"}) : "image";
    Preprocess found;
    if (name == "log_mel")
        found = log_mel_of(field, fields);
    else if (name == "waveform")
        found = waveform_of(fields);
    else if (name == "video")
        found = video_of(fields);
    else
        found = image_of(fields);
    fields.done();
    return found;
}

}  // namespace tokexport
