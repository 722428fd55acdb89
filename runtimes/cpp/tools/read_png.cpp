#include <png.h>

#include "read.h"
#include "tokexport/errors.h"

Picture read_png(const std::string& path) {
    png_image image{};
    image.version = PNG_IMAGE_VERSION;
    Picture picture{0, 0, {}};
    if (png_image_begin_read_from_file(&image, path.c_str())) {
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
