// A tensor: dtype, shape, and values that may lie on the host or on a device.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

namespace tokexport {

enum class DType { float32, float16, bfloat16, float64, int64, int32, int8, uint8, boolean };

std::size_t bytes_of(DType dtype);
const char* name_of(DType dtype);

// "[1, 3, 96, 96]"; -1 reads "any".
std::string text_of(const std::vector<std::int64_t>& shape);

// "float32 [1, 3, 96, 96]"
std::string text_of(DType dtype, const std::vector<std::int64_t>& shape);

// How many elements a shape has. RequestError: an axis is negative, or their product is beyond std::size_t.
std::size_t count_of(const std::vector<std::int64_t>& shape);

// The dtype of a C++ type.
template <class T>
constexpr DType dtype_of() {
    if constexpr (std::is_same_v<T, float>) return DType::float32;
    if constexpr (std::is_same_v<T, double>) return DType::float64;
    if constexpr (std::is_same_v<T, std::int64_t>) return DType::int64;
    if constexpr (std::is_same_v<T, std::int32_t>) return DType::int32;
    if constexpr (std::is_same_v<T, std::int8_t>) return DType::int8;
    if constexpr (std::is_same_v<T, std::uint8_t>) return DType::uint8;
}

// Rows of equal length in a buffer; the first begins `begin` bytes behind its start, the next ones `pitch` bytes apart.
struct Rows {
    std::size_t count, bytes, begin, pitch;
};

// Values, which only a tensor that owns them alone may change. A backend derives from it to leave them on its device.
class Buffer {
  public:
    virtual ~Buffer() = default;
    // The values in host memory, contiguous, alive as long as the buffer and unchanged until it is written to; the first
    // call may wait for a device.
    virtual const void* host() const = 0;

    // Copies `values`, row after row, over these rows. False: this buffer cannot be written to.
    virtual bool write(const Buffer& values, const Rows& rows);
};

// Cheap to copy: copies share their buffer.
class Tensor {
  public:
    Tensor() : Tensor(DType::uint8, {0}, nullptr) {}
    Tensor(DType dtype, std::vector<std::int64_t> shape, std::shared_ptr<const Buffer> buffer);

    // A tensor on the host. RequestError: there are not as many values as the shape has.
    template <class T>
    static Tensor of(std::vector<std::int64_t> shape, const std::vector<T>& values) {
        return copy(dtype_of<T>(), std::move(shape), values.data(), values.size() * sizeof(T));
    }

    // A copy of `bytes` bytes, for float16, bfloat16 and boolean, which C++17 has no type or no vector for.
    static Tensor copy(DType dtype, std::vector<std::int64_t> shape, const void* values, std::size_t bytes);

    DType dtype() const { return dtype_; }
    const std::vector<std::int64_t>& shape() const { return shape_; }
    std::size_t count() const { return count_; }
    std::size_t bytes() const { return count_ * bytes_of(dtype_); }
    const std::shared_ptr<const Buffer>& buffer() const { return buffer_; }
    const void* host() const { return buffer_ ? buffer_->host() : nullptr; }

    // The values on the host. RequestError: they are of another dtype.
    template <class T>
    const T* values() const {
        expect(dtype_of<T>());
        return static_cast<const T*>(host());
    }

    // Writes `slice`, a tensor of this shape but for its last axis but one, which is 1, over index `slot` of that axis:
    // in place where no other tensor shares the buffer. GraphError: it has another dtype or shape, or there is no such
    // slot.
    void put(const Tensor& slice, std::int64_t slot);

    // A copy of the values as float32. RequestError: they are neither float32, float16 nor bfloat16.
    std::vector<float> floats() const;

  private:
    void expect(DType dtype) const;

    DType dtype_;
    std::vector<std::int64_t> shape_;
    std::size_t count_;
    std::shared_ptr<const Buffer> buffer_;
};

// By role name, or, for a backend, by the graph's own tensor name.
using Tensors = std::map<std::string, Tensor>;

}  // namespace tokexport
