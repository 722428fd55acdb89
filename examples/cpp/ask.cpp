// ask BUNDLE PICTURE.png QUESTION
#include <png.h>

#include <cstdio>
#include <vector>

#include "tokexport/errors.h"
#include "tokexport/onnxruntime.h"
#include "tokexport/session.h"

namespace {

struct Picture {
    int width, height;
    std::vector<png_byte> rgba;
};

Picture read(const char* path) {
    png_image image{};
    image.version = PNG_IMAGE_VERSION;
    if (png_image_begin_read_from_file(&image, path)) {
        image.format = PNG_FORMAT_RGBA;
        std::vector<png_byte> rgba(PNG_IMAGE_SIZE(image));
        if (png_image_finish_read(&image, nullptr, rgba.data(), 0, nullptr))
            return {static_cast<int>(image.width), static_cast<int>(image.height), std::move(rgba)};
    }
    throw tokexport::RequestError(std::string(path) + " cannot be read as a PNG: " + image.message);
}

}  // namespace

int main(int argc, char** argv) {
    if (argc != 4) {
        std::fprintf(stderr, "usage: ask BUNDLE PICTURE.png QUESTION\n");
        return 2;
    }
    try {
        const Picture picture = read(argv[2]);
        tokexport::Session session(tokexport::Bundle::open(argv[1]), tokexport::onnxruntime_backend());
        // Alpha, the fourth byte of a pixel, is not read.
        const tokexport::Image image{picture.rgba.data(), picture.width, picture.height, 4};
        const tokexport::Answer answer = session.generate(image, argv[3]);
        std::printf("%s\n%zu tokens stand for the picture\n", answer.text.c_str(), answer.kept_indices.size());
        return 0;
    } catch (const tokexport::Error& error) {
        std::fprintf(stderr, "error: %s\n", error.what());
        return error.exit_code();
    }
}
