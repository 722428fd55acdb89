// Sizes, crops and refusals by inspection; test_cpp_runtime.py compares values with Python's over random sizes.
#include <cmath>

#include "says.h"
#include "tokexport/errors.h"
#include "tokexport/media.h"

using namespace tokexport;
using Record = PreprocessRecord;

static Record record(int height, int width, Record::Crop crop = Record::Crop::none) {
    return {height, width, Record::Resample::nearest, true, crop, 1.0, {0, 0, 0}, {1, 1, 1}};
}

// Red counts columns, green counts rows.
static std::vector<std::uint8_t> ramp(int width, int height, int channels = 3, std::size_t stride = 0) {
    stride = stride ? stride : static_cast<std::size_t>(width) * channels;
    std::vector<std::uint8_t> pixels(stride * height, 255);
    for (int y = 0; y < height; ++y)
        for (int x = 0; x < width; ++x) {
            std::uint8_t* pixel = &pixels[y * stride + x * channels];
            pixel[0] = static_cast<std::uint8_t>(x), pixel[1] = static_cast<std::uint8_t>(y), pixel[2] = 7;
        }
    return pixels;
}

TEST_CASE("layout, shape and normalisation") {
    const std::uint8_t pixel[] = {0, 51, 255};
    Record asked = record(1, 1);
    asked.rescale = 1.0 / 255, asked.mean = {0.5, 0.2, 0.25}, asked.std = {0.5, 1, 0.25};
    const Tensor found = pixel_values({pixel, 1, 1}, asked);
    CHECK(found.shape() == std::vector<std::int64_t>{1, 3, 1, 1});
    CHECK(found.values<float>()[0] == -1.0f);
    CHECK(std::fabs(found.values<float>()[1]) < 1e-7f);
    CHECK(found.values<float>()[2] == 3.0f);
}

TEST_CASE("rows may be longer than their pixels, pixels longer than their colours") {
    const auto plain = ramp(3, 2), wide = ramp(3, 2, 4, 17);
    const auto a = pixel_values({plain.data(), 3, 2}, record(2, 3)).floats();
    CHECK(a == pixel_values({wide.data(), 3, 2, 4, 17}, record(2, 3)).floats());
    CHECK(a == std::vector<float>{0, 1, 2, 0, 1, 2, 0, 0, 0, 1, 1, 1, 7, 7, 7, 7, 7, 7});
}

TEST_CASE("center takes the middle, pad puts it there") {
    const auto wide = ramp(6, 2);
    CHECK(pixel_values({wide.data(), 6, 2}, record(2, 2, Record::Crop::center)).floats()[0] == 2);
    Record padded = record(4, 6, Record::Crop::pad);
    padded.mean = {10, 10, 10};
    const auto found = pixel_values({wide.data(), 6, 2}, padded).floats();
    CHECK(found[0] == 0);
    CHECK(found[6] == -10);
    CHECK(found[11] == -5);
    CHECK(found[18] == 0);
}

TEST_CASE("images and sounds that cannot be are refused") {
    const auto pixels = ramp(2, 2);
    CHECK_SAYS(pixel_values({nullptr, 2, 2}, record(2, 2)), RequestError, "no pixels");
    CHECK_SAYS(pixel_values({pixels.data(), 0, 2}, record(2, 2)), RequestError, "no pixels");
    CHECK_SAYS(pixel_values({pixels.data(), 2, 2, 1}, record(2, 2)), RequestError, "3 or 4 bytes");
    CHECK_SAYS(pixel_values({pixels.data(), 2, 2, 3, 5}, record(2, 2)), RequestError, "5 bytes apart");
    const auto hair = ramp(1, 100000);
    CHECK_SAYS(pixel_values({hair.data(), 1, 100000}, record(900, 900, Record::Crop::center)), RequestError,
               "too long and thin");
    Record sharp = record(2, 2);
    sharp.antialias = false;
    CHECK_NOTHROW(pixel_values({pixels.data(), 2, 2}, sharp));
    sharp.resample = Record::Resample::bicubic;
    CHECK_SAYS(pixel_values({pixels.data(), 2, 2}, sharp), BundleError, "antialiases");

    const LogMelRecord mel{16000, 400, 160, 80, 10};
    const std::vector<float> silence(1601), odd = {0, NAN};
    CHECK_SAYS(input_features({silence.data(), 1601, 16000}, mel), RequestError, "at most 0.1");
    CHECK_SAYS(input_features({silence.data(), 0, 16000}, mel), RequestError, "empty");
    CHECK_SAYS(input_features({silence.data(), 800, 8000}, mel), RequestError, "8000 samples a second");
    CHECK_SAYS(input_features({odd.data(), 2, 16000}, mel), RequestError, "not finite");
}

TEST_CASE("a medium that the bundle does not take") {
    const auto pixels = ramp(2, 2);
    const float samples[] = {0};
    const Preprocess image = record(2, 2), mel = LogMelRecord{16000, 400, 160, 80, 10};
    CHECK_SAYS(encoder_input(Sound{samples, 1, 16000}, image), RequestError, "a sound is not an image");
    CHECK_SAYS(encoder_input(Image{pixels.data(), 2, 2}, mel), RequestError, "an image is not a sound");
    CHECK_SAYS(encoder_input(Image{pixels.data(), 2, 2}, Preprocess()), RequestError, "does not say how");
    const Preprocess video = VideoRecord{8, record(48, 40)};
    CHECK_SAYS(encoder_input(Image{pixels.data(), 2, 2}, video), RequestError, "float32 [1, 8, 3, 48, 40]");
    CHECK_SAYS(encoder_input(Sound{samples, 1, 16000}, video), RequestError, "takes a video");
    const Tensor ready = Tensor::of<float>({1}, {1});
    CHECK(encoder_input(ready, video).buffer() == ready.buffer());
}

TEST_CASE("float16 and bfloat16 are read as float32") {
    const std::vector<std::uint16_t> half = {0x0000, 0x3C00, 0xC000, 0x7BFF, 0x0001, 0x0400, 0x7C00, 0xFC00, 0x3555};
    const auto found = Tensor::copy(DType::float16, {9}, half.data(), 18).floats();
    CHECK(found == std::vector<float>{0, 1, -2, 65504, 5.9604644775390625e-08f, 6.103515625e-05f, INFINITY, -INFINITY,
                                      0.333251953125f});
    const std::vector<std::uint16_t> brain = {0x3F80, 0xC040, 0x7FC0};
    const auto wide = Tensor::copy(DType::bfloat16, {3}, brain.data(), 6).floats();
    CHECK(wide[0] == 1);
    CHECK(wide[1] == -3);
    CHECK(std::isnan(wide[2]));
    CHECK(std::isnan(Tensor::copy(DType::float16, {1}, &brain[2], 2).floats()[0]));
}

TEST_CASE("a tensor holds what its shape says, and is read as what it is") {
    CHECK_SAYS(Tensor::of<float>({2, 2}, {1, 2, 3}), RequestError, "12 bytes");
    CHECK_SAYS(Tensor::of<float>({-1}, {}), RequestError, "negative axis");
    CHECK_SAYS(Tensor::of<float>({INT64_MAX, INT64_MAX}, {}), RequestError, "larger than any memory");
    CHECK_SAYS(Tensor::of<float>({1}, {1}).values<std::int64_t>(), RequestError, "read as int64");
    CHECK_SAYS((Tensor::of<std::int64_t>({1}, {1}).floats()), RequestError, "cannot be read as float32");
}
