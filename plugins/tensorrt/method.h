// What a compressor's plugin has of its own: its attributes, the signals beside the tokens, its entry points.
// methods.cpp has a subclass of Method for each.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "attributes.h"
#include "tokexport_kernels.h"

namespace tokexport::shell {

// A further input, with the batch of the tokens.
struct Signal {
    enum class Dtype { kOfTokens, kAnyFloat, kFloat32 };

    const char* name;
    Dtype dtype;
    bool rows = false;    // [B, N, any] rather than [B, N]
    int32_t of_text = 0;  // [B, of_text, D], where that is not 0
};

// The arguments of an entry point.
struct Call {
    struct Given {
        const void* data;
        int32_t dtype;  // TOKEXPORT_FLOAT32, ...
        int32_t dim;    // its last dimension
    };

    tokexport_shape shape{};
    const void* tokens = nullptr;
    std::vector<Given> signals;
    tokexport_outputs outputs{};
    tokexport_workspace workspace{};
    tokexport_stream stream = nullptr;

    // Of a signal, by its place; of one that is not there null, the dtype of the tokens, and 0.
    const void* data_of(size_t i) const { return i < signals.size() ? signals[i].data : nullptr; }
    int32_t dtype_of(size_t i) const { return i < signals.size() ? signals[i].dtype : shape.dtype; }
    int32_t dim_of(size_t i) const { return i < signals.size() ? signals[i].dim : 0; }
};

// A subclass has a constructor from Attributes& that reads every attribute but `keep`.
class Method {
  public:
    Method() = default;
    virtual ~Method() = default;
    Method(const Method&) = delete;
    Method& operator=(const Method&) = delete;

    virtual std::vector<Signal> signals() const { return {}; }

    // Both return a status of the C ABI.
    virtual int workspace(const Call& call, size_t* bytes) const = 0;
    virtual int enqueue(const Call& call) const = 0;
};

using MakeMethod = std::unique_ptr<Method> (*)(Attributes&);

// Makes a creator called `name`, a literal, known to TensorRT.
void register_method(const char* name, MakeMethod make);

// Of this type, methods.cpp has a global for each plugin.
template <class M>
struct Registered {
    explicit Registered(const char* name) {
        register_method(name, [](Attributes& given) -> std::unique_ptr<Method> { return std::make_unique<M>(given); });
    }
};

// [frames, height, width], 1 for an axis that is not there.
inline tokexport_grid grid_of(Attributes& given) {
    const std::vector<int32_t> sides = given.integers("grid", 3, 1, TOKEXPORT_MAX_TOKENS);
    return {sides[0], sides[1], sides[2]};
}

}  // namespace tokexport::shell
