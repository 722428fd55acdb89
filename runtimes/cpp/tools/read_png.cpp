#include <png.h>

#include <filesystem>

#include "read.h"
#include "tokexport/errors.h"

// As in runtimes/media/limits.py; refused before memory for the pixels is needed.
constexpr png_uint_32 kMostPixels = 89478485;

Picture read_png(const std::string& path) {
    std::error_code error;
    // Opening a pipe could block for ever.
    if (std::filesystem::exists(path, error) && !std::filesystem::is_regular_file(path, error))
        throw tokexport::RequestError(path + " is no regular file", "", "Give a PNG file.");
    png_image image{};
    image.version = PNG_IMAGE_VERSION;
    Picture picture{0, 0, {}};
    if (png_image_begin_read_from_file(&image, path.c_str())) {
        if (image.width > kMostPixels / image.height) {
            const std::string size = std::to_string(image.width) + " x " + std::to_string(image.height);
            png_image_free(&image);
            throw tokexport::RequestError(path + " has " + size + " pixels, and at most " +
                                              std::to_string(kMostPixels) + " are taken",
                                          "", "Make it smaller first: no encoder sees that many pixels.");
        }
        image.format = PNG_FORMAT_RGBA;
        picture.width = static_cast<int>(image.width);
        picture.height = static_cast<int>(image.height);
        picture.rgba.resize(PNG_IMAGE_SIZE(image));
        if (png_image_finish_read(&image, nullptr, picture.rgba.data(), 0, nullptr)) return picture;
    }
    const std::string message = image.message;
    png_image_free(&image);
    throw tokexport::RequestError(path + " cannot be read as a PNG: " + message, "", "Save it as PNG.");
}
