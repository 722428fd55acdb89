// A bundle without graphs, for tests that run none.
#pragma once

#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>

namespace toy {

// A folder that is removed again.
class Folder {
  public:
    Folder() {
        std::string name = (std::filesystem::temp_directory_path() / "tokexport-XXXXXX").string();
        path = mkdtemp(name.data());
    }
    ~Folder() { std::filesystem::remove_all(path); }
    Folder(const Folder&) = delete;
    Folder& operator=(const Folder&) = delete;

    std::filesystem::path write(const std::string& name, const std::string& text) const {
        std::filesystem::create_directories((path / name).parent_path());
        std::ofstream(path / name, std::ios::binary) << text;
        return path / name;
    }

    std::filesystem::path path;
};

inline std::string with(std::string text, const std::string& from, const std::string& to) {
    const std::size_t at = text.find(from);
    if (at == std::string::npos) throw std::logic_error("no " + from + " to replace");
    return text.replace(at, from.size(), to);
}

// The SHA-256 of "abc".
inline const std::string kAbc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

// An encoder of the file "abc": pixel_values [1, 3, 2, 2] -> tokens [1, 2, 1], and the language graphs' record.
inline const std::string kManifest = R"({
  "schema": "1.0", "tokexport": "0.1.0", "source": {"kind": "builtin", "name": "toy"},
  "files": {"graphs/encoder.onnx": {"size": 3, "sha256": ")" +
                                     kAbc + R"("}},
  "variants": [{"name": "toy-0.5",
    "compression": [{"method": "toy", "params": {"any": [1]}, "ratio": "0.5", "tokens_in": 4, "tokens_out": 2,
      "size_bias": true,
      "seam": {"kind": "encoder_output", "graph": "encoder", "tensor": "t", "grid": [2, 2], "prefix": 1}}],
    "graphs": {"encoder": {"forms": {"portable": "graphs/encoder.onnx"}, "precision": "fp32",
      "inputs": {"pixel_values": {"name": "image", "dtype": "float32", "shape": [1, 3, 2, 2]}},
      "outputs": {"tokens": {"name": "out", "dtype": "float32", "shape": [1, 2, 1]}}}},
    "generation": {"image_span": [1, 2], "tokens_in": 4, "prompt_length": 5, "kv_capacity": [11], "max_new_tokens": 4,
      "vocabulary": 10, "bos": 1, "pad": 0, "eos": [2]}}],
  "preprocess": {"size": [2, 2], "resample": "nearest", "mean": [0, 0, 0], "std": [1, 1, 1], "rescale": 1},
  "x-note": "kept", "parity": {}, "versions": {"torch": "2"}})";

inline std::filesystem::path bundle(const Folder& folder, const std::string& manifest = kManifest) {
    folder.write("graphs/encoder.onnx", "abc");
    folder.write("manifest.json", manifest);
    return folder.path;
}

}  // namespace toy
