// Fits an image to the encoder's size and scales its values: what runtimes/media/image.py does with Pillow and numpy.
#include <algorithm>
#include <cmath>

#include "resample.h"
#include "tokexport/errors.h"
#include "tokexport/media.h"

namespace tokexport {
namespace {

// As in runtimes/media/limits.py.
constexpr std::int64_t kMostPixels = 89478485;

Pixels read(const Image& image) {
    const std::string size = std::to_string(image.width) + " x " + std::to_string(image.height);
    if (image.pixels == nullptr || image.width < 1 || image.height < 1)
        throw RequestError("the image has no pixels: it is " + size);
    if (image.channels != 3 && image.channels != 4)
        throw RequestError("an image has 3 or 4 bytes a pixel, not " + std::to_string(image.channels));
    if (image.width > kMostPixels / image.height)
        throw RequestError("the image has " + size + " pixels, and at most " + std::to_string(kMostPixels) +
                               " are taken",
                           "", "Make it smaller first: no encoder sees that many pixels.");
    const std::size_t row = static_cast<std::size_t>(image.width) * image.channels;
    const std::size_t stride = image.stride ? image.stride : row;
    if (stride < row)
        throw RequestError("rows of an image of " + size + " are " + std::to_string(stride) +
                           " bytes apart, and have " + std::to_string(row));
    Pixels pixels(image.width, image.height);
    for (int y = 0; y < image.height; ++y)
        for (int x = 0; x < image.width; ++x)
            std::copy_n(image.pixels + y * stride + static_cast<std::size_t>(x) * image.channels, 3, pixels.at(x, y));
    return pixels;
}

// Copies (width, height) pixels from one place to another.
void paste(const Pixels& from, int left, int top, Pixels& into, int x, int y, int width, int height) {
    for (int row = 0; row < height; ++row)
        std::copy_n(from.at(left, top + row), static_cast<std::size_t>(width) * 3, into.at(x, y + row));
}

// A picture of extreme aspect ratio, resized until it covers, could exhaust memory: first the width is changed, then
// the height.
void check_resize(const Pixels& image, std::int64_t across, std::int64_t down) {
    if (across <= kMostPixels / std::max<std::int64_t>(down, image.height)) return;
    throw RequestError("an image of " + std::to_string(image.width) + " x " + std::to_string(image.height) +
                           " is too long and thin: it would grow to " + std::to_string(across) + " x " +
                           std::to_string(down),
                       "", "Cut it to a shape like the model's.");
}

// Resizes to the smallest size of the same aspect ratio that covers the record's, or its shortest side, and crops the
// centre.
Pixels cover(const Pixels& image, const PreprocessRecord& record) {
    const std::int64_t width = record.width, height = record.height;
    const std::int64_t least_across = record.shortest ? record.shortest : width;
    const std::int64_t least_down = record.shortest ? record.shortest : height;
    const bool wide = least_across * image.height >= least_down * image.width;
    const std::int64_t across = wide ? least_across : std::max(least_across, least_down * image.width / image.height);
    const std::int64_t down = wide ? std::max(least_down, least_across * image.height / image.width) : least_down;
    check_resize(image, across, down);
    const Pixels covering = resize(image, static_cast<int>(across), static_cast<int>(down), record.resample);
    Pixels middle(record.width, record.height);
    paste(covering, static_cast<int>(across - width) / 2, static_cast<int>(down - height) / 2, middle, 0, 0,
          record.width, record.height);
    return middle;
}

// Resizes to the largest size of the same aspect ratio that fits, centred on the mean colour.
Pixels pad(const Pixels& image, const PreprocessRecord& record) {
    const double scale =
        std::min(static_cast<double>(record.width) / image.width, static_cast<double>(record.height) / image.height);
    // Halves go to the even number, as round() does in Python.
    const int across = std::max(1, static_cast<int>(std::nearbyint(image.width * scale)));
    const int down = std::max(1, static_cast<int>(std::nearbyint(image.height * scale)));
    check_resize(image, across, down);
    Pixels canvas(record.width, record.height);
    std::uint8_t colour[3];
    for (int c = 0; c < 3; ++c)
        colour[c] = static_cast<std::uint8_t>(std::clamp(std::nearbyint(record.mean[c] / record.rescale), 0.0, 255.0));
    for (std::size_t i = 0; i < canvas.bytes.size(); ++i) canvas.bytes[i] = colour[i % 3];
    paste(resize(image, across, down, record.resample), 0, 0, canvas, (record.width - across) / 2,
          (record.height - down) / 2, across, down);
    return canvas;
}

Pixels fit(const Pixels& image, const PreprocessRecord& record) {
    switch (record.crop) {
        case PreprocessRecord::Crop::center: return cover(image, record);
        case PreprocessRecord::Crop::pad: return pad(image, record);
        default: check_resize(image, record.width, record.height); return resize(image, record.width, record.height, record.resample);
    }
}

// The whole picture, then its tiles row by row.
std::vector<Pixels> views(const Pixels& image, const PreprocessRecord& record) {
    std::vector<Pixels> found = {fit(image, record)};
    if (!record.tiles) return found;
    const TilesRecord& tiles = *record.tiles;
    check_resize(image, tiles.width, tiles.height);
    Pixels canvas(tiles.columns * record.width, tiles.rows * record.height);
    paste(resize(image, tiles.width, tiles.height, record.resample), 0, 0, canvas, (canvas.width - tiles.width) / 2,
          (canvas.height - tiles.height) / 2, tiles.width, tiles.height);
    for (int row = 0; row < tiles.rows; ++row)
        for (int column = 0; column < tiles.columns; ++column) {
            Pixels& tile = found.emplace_back(record.width, record.height);
            paste(canvas, column * record.width, row * record.height, tile, 0, 0, record.width, record.height);
        }
    return found;
}

}  // namespace

Tensor pixel_values(const Image& image, const PreprocessRecord& record) {
    if (!record.antialias && record.resample != PreprocessRecord::Resample::nearest)
        throw BundleError("preprocess asks for resizing without antialiasing, and this library always antialiases",
                          "manifest.json, preprocess", "Pass pixel_values as a tensor instead of an image.");
    const std::size_t plane = static_cast<std::size_t>(record.width) * record.height;
    const std::vector<Pixels> seen = views(read(image), record);
    std::vector<float> values;
    values.reserve(seen.size() * 3 * plane);
    for (const Pixels& view : seen)
        for (std::size_t c = 0; c < 3; ++c) {
            // Multiplying in double first is what Python does: the last bit of a float depends on it.
            const auto mean = static_cast<float>(record.mean[c]), std = static_cast<float>(record.std[c]);
            for (std::size_t i = 0; i < plane; ++i)
                values.push_back((static_cast<float>(view.bytes[i * 3 + c] * record.rescale) - mean) / std);
        }
    return Tensor::of(record.shape(), values);
}

}  // namespace tokexport
