// The part of manifest.json that running a bundle needs; runtimes/bundle/manifest.py documents every field and the
// contract of the graphs.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "tokexport/tensor.h"

namespace tokexport {

struct FileRecord {
    std::uint64_t size;
    std::string sha256;
};

// A graph input or output: its own name in the graph; -1 is a dynamic axis.
struct TensorRecord {
    std::string name;
    DType dtype;
    std::vector<std::int64_t> shape;
};

struct GraphRecord {
    std::map<std::string, std::string> forms;  // portable, plugin, inlined -> file
    std::string precision;                     // fp32, fp16, bf16
    std::map<std::string, TensorRecord> inputs, outputs;
};

struct SeamRecord {
    std::string kind, graph, tensor;
};

struct CompressionRecord {
    std::string method, ratio;
    std::int64_t tokens_in, tokens_out;
    bool size_bias;
    SeamRecord seam;
    std::string params = {};  // of the method, as JSON
};

// How a recogniser is told what to write. A prompt is `start`, the id of the language and of the task where the model
// has them, and `no_timestamps` unless times are wanted.
struct SpeechRecord {
    std::int64_t start = 0;
    std::map<std::string, std::int64_t> languages, tasks;  // "en", "transcribe" -> id; empty: the model takes none
    std::optional<std::int64_t> no_timestamps, timestamps;  // `timestamps` is 0.00 s; the vocabulary's last ids follow
    double timestamp_seconds = 0.02;                        // from one of these ids to the next
    std::optional<std::int64_t> latest_start;  // the first time is at most so many ids after `timestamps`; none: any
};

struct GenerationRecord {
    bool cross;                 // the decoder cross-attends to the tokens; false: they are part of its sequence
    std::int64_t offset, kept;  // image_span
    std::int64_t tokens_in, prompt_length, max_new_tokens, vocabulary;
    std::int64_t bos, pad;
    std::vector<std::int64_t> eos;
    std::vector<std::int64_t> suppress = {};        // ids that are never chosen
    std::vector<std::int64_t> begin_suppress = {};  // ids that are not chosen as the first of an answer
    std::optional<SpeechRecord> speech = {};        // none: a prompt begins with `bos`
    std::int64_t images = 1;                        // I, as many as a prompt may have
    std::int64_t placeholder = -1;                  // with several: the id that stands in a prompt for each
    bool by_position = false;  // prefill takes `assignment`, and reads slots at the positions of all tokens in them
};

// The inputs of the graph `text`.
struct TextRecord {
    std::int64_t vocabulary, pad;
};

// Of the size of the whole picture each; that is brought to (height, width), in the middle of black, and is cut.
struct TilesRecord {
    int rows, columns, height, width;

    std::int64_t count() const { return static_cast<std::int64_t>(rows) * columns; }
};

struct PreprocessRecord {
    enum class Resample { nearest, bilinear, bicubic, lanczos };
    enum class Crop { none, center, pad };

    int height, width;
    Resample resample;
    bool antialias = true;
    Crop crop = Crop::none;
    double rescale = 1.0 / 255;
    std::array<double, 3> mean, std;
    // Of Crop::center: the shorter side becomes so long before the middle is taken; 0: as long as the size needs.
    int shortest = 0;
    std::optional<TilesRecord> tiles;

    // Of the tensor.
    std::vector<std::int64_t> shape() const {
        if (tiles) return {1, 1 + tiles->count(), 3, height, width};
        return {1, 3, height, width};
    }
};

// Parsed so that a bundle with a video model opens; this library takes frames only as a tensor.
struct VideoRecord {
    int frames;
    PreprocessRecord frame;
};

struct LogMelRecord {
    int sample_rate, n_fft, hop, mels, frames;
    int window = 0;    // samples of the Hann window, in the middle of n_fft; 0: n_fft
    bool htk = false;  // filters of height one on HTK's scale; else Slaney's, of area one

    // The longest sound, in samples.
    std::int64_t samples() const { return static_cast<std::int64_t>(frames) * hop; }
};

// Of a sound as it is, padded with silence at its end.
struct WaveformRecord {
    int sample_rate = 0;
    std::int64_t samples = 0;  // the longest sound
    bool normalize = false;    // to mean 0 and variance 1 over the samples before the silence, which stays zero
};

using Preprocess = std::variant<std::monostate, PreprocessRecord, VideoRecord, LogMelRecord, WaveformRecord>;

struct Variant {
    std::string name;
    std::vector<CompressionRecord> compression;
    std::map<std::string, GraphRecord> graphs;  // by role
    std::optional<GenerationRecord> generation;
    std::optional<TextRecord> text;  // present where the variant has a graph `text`
    Preprocess preprocess;           // where its encoder takes another input than the manifest's record makes
};

struct Manifest {
    std::string schema, tokexport;
    bool builtin = false;  // made of a built-in model, whose language graphs can be exported
    std::map<std::string, FileRecord> files;
    std::vector<Variant> variants;  // at least one; the first is the default
    Preprocess preprocess;
    std::string vocabulary;  // file of the processor `words`; empty where it is of another kind
    std::string tokenizer;   // file of the processor `tokenizers`; likewise

    // Reads the text of a manifest: a newer minor version is read, unknown keys ignored; a newer major one refused.
    // `where` names the file in messages. BundleError: damaged, too new, or an invalid key or value.
    static Manifest parse(const std::string& text, const std::string& where);
};

}  // namespace tokexport
