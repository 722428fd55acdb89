#include "tokexport/tensor.h"

#include <cstring>
#include <limits>
#include <utility>

#include "half.h"
#include "rows.h"
#include "tokexport/errors.h"

namespace tokexport {
namespace {

class HostBuffer : public Buffer {
  public:
    HostBuffer(const void* values, std::size_t bytes) : bytes_(bytes) {
        if (bytes > 0) std::memcpy(bytes_.data(), values, bytes);
    }
    const void* host() const override { return bytes_.data(); }
    bool write(const Buffer& values, const Rows& rows) override {
        copy_rows(bytes_.data(), values, rows);
        return true;
    }

  private:
    std::vector<std::byte> bytes_;
};

}  // namespace

bool Buffer::write(const Buffer&, const Rows&) { return false; }

void copy_rows(void* to, const Buffer& values, const Rows& rows) {
    const auto* from = static_cast<const std::byte*>(values.host());
    for (std::size_t row = 0; row < rows.count; ++row)
        std::memcpy(static_cast<std::byte*>(to) + rows.begin + row * rows.pitch, from + row * rows.bytes, rows.bytes);
}

std::size_t bytes_of(DType dtype) {
    switch (dtype) {
        case DType::float64:
        case DType::int64: return 8;
        case DType::float32:
        case DType::int32: return 4;
        case DType::float16:
        case DType::bfloat16: return 2;
        default: return 1;
    }
}

const char* name_of(DType dtype) {
    static const char* const names[] = {"float32", "float16", "bfloat16", "float64", "int64",
                                        "int32",   "int8",    "uint8",    "bool"};
    return names[static_cast<int>(dtype)];
}

std::string text_of(const std::vector<std::int64_t>& shape) {
    std::string text = "[";
    for (std::size_t i = 0; i < shape.size(); ++i)
        text += (i ? ", " : "") + (shape[i] == -1 ? "any" : std::to_string(shape[i]));
    return text + "]";
}

std::string text_of(DType dtype, const std::vector<std::int64_t>& shape) {
    return std::string(name_of(dtype)) + " " + text_of(shape);
}

std::size_t count_of(const std::vector<std::int64_t>& shape) {
    // Eight bytes an element at most: their product must not wrap either.
    constexpr std::size_t most = std::numeric_limits<std::size_t>::max() / 8;
    std::size_t count = 1;
    for (const std::int64_t axis : shape) {
        if (axis < 0) throw RequestError("a tensor of shape " + text_of(shape) + " has a negative axis");
        if (axis > 0 && count > most / static_cast<std::size_t>(axis))
            throw RequestError("a tensor of shape " + text_of(shape) + " is larger than any memory");
        count *= static_cast<std::size_t>(axis);
    }
    return count;
}

Tensor::Tensor(DType dtype, std::vector<std::int64_t> shape, std::shared_ptr<const Buffer> buffer)
    : dtype_(dtype), shape_(std::move(shape)), count_(count_of(shape_)), buffer_(std::move(buffer)) {}

Tensor Tensor::copy(DType dtype, std::vector<std::int64_t> shape, const void* values, std::size_t bytes) {
    Tensor made(dtype, std::move(shape), nullptr);
    if (made.bytes() != bytes)
        throw RequestError(std::to_string(bytes) + " bytes of values do not fill a tensor " +
                           text_of(dtype, made.shape()) + ", which has " + std::to_string(made.bytes()));
    made.buffer_ = std::make_shared<HostBuffer>(values, bytes);
    return made;
}

std::vector<float> Tensor::floats() const {
    if (dtype_ == DType::float32) return {values<float>(), values<float>() + count_};
    if (dtype_ != DType::float16 && dtype_ != DType::bfloat16)
        throw RequestError("a tensor " + text_of(dtype_, shape_) + " cannot be read as float32");
    const auto* bits = static_cast<const std::uint16_t*>(host());
    std::vector<float> found(count_);
    for (std::size_t i = 0; i < count_; ++i)
        found[i] = dtype_ == DType::float16 ? from_float16(bits[i]) : from_bfloat16(bits[i]);
    return found;
}

void Tensor::put(const Tensor& slice, std::int64_t slot) {
    const std::size_t rank = shape_.size();
    std::vector<std::int64_t> wanted = shape_;
    if (rank > 1) wanted[rank - 2] = 1;
    if (rank < 2 || slice.dtype_ != dtype_ || slice.shape_ != wanted || slot < 0 || slot >= shape_[rank - 2])
        throw GraphError(text_of(slice.dtype_, slice.shape_) + " does not fit slot " + std::to_string(slot) + " of " +
                         text_of(dtype_, shape_), "", "Export the bundle again.");
    Rows rows{1, static_cast<std::size_t>(shape_[rank - 1]) * bytes_of(dtype_), 0, 0};
    for (std::size_t axis = 0; axis + 2 < rank; ++axis) rows.count *= static_cast<std::size_t>(shape_[axis]);
    rows.begin = static_cast<std::size_t>(slot) * rows.bytes;
    rows.pitch = static_cast<std::size_t>(shape_[rank - 2]) * rows.bytes;
    if (rows.count == 0 || rows.bytes == 0) return;
    if (buffer_.use_count() == 1 && std::const_pointer_cast<Buffer>(buffer_)->write(*slice.buffer_, rows)) return;
    auto copy = std::make_shared<HostBuffer>(host(), bytes());
    copy->write(*slice.buffer_, rows);
    buffer_ = std::move(copy);
}

void Tensor::expect(DType dtype) const {
    if (dtype_ != dtype) throw RequestError("a tensor " + text_of(dtype_, shape_) + " was read as " + name_of(dtype));
}

}  // namespace tokexport
