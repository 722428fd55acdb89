// A bundle, ready to run: a single graph, the encoder on a picture or a sound, or a whole answer.
//
//     tokexport::Session session(tokexport::Bundle::open("tiny-vlm-apet-0.85"), tokexport::onnxruntime_backend());
//     tokexport::Image image{pixels, width, height};
//     std::string text = session.generate(image, "what colour is the star ?").text;
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "tokexport/backend.h"
#include "tokexport/generate.h"
#include "tokexport/media.h"

namespace tokexport {

// Graphs are loaded when they are first run. One thread at a time; several sessions are independent of one another.
class Session {
  public:
    // `variant` is the name of one of the bundle's variants; "" is the first.
    // RequestError: there is none of that name.
    Session(Bundle bundle, std::unique_ptr<Backend> backend, const std::string& variant = "");

    const Bundle& bundle() const { return bundle_; }
    const Variant& variant() const { return bundle_.variant(variant_); }

    // Runs one graph: tensors by role name, with exactly the dtype and shape of the manifest.
    // RequestError: the graph is not in the bundle, or an input is missing, unknown, or of another dtype or shape.
    // GraphError: it cannot be loaded, fails, or its outputs differ from the manifest.
    Tensors run(const std::string& role, Tensors inputs);

    // Whether the method selects tokens by the question, so that `encode` needs the prompt.
    bool reads_text() const { return variant().text.has_value(); }

    // Runs the encoder: tokens [1, K, D], and kept_indices, sizes, assignment where the bundle has them. `extra` are
    // further inputs by role name, such as a text where the bundle has no graph for it.
    // RequestError: a bad image or sound, or the session reads a text and it is missing.
    Tensors encode(const Media& media, const Tensors& extra = {});

    // The same with the question, as text or as ids with `bos`, where the session reads_text().
    // RequestError: it does not; or the prompt is one that `generate` refuses.
    Tensors encode(const Media& media, const std::string& prompt);
    Tensors encode(const Media& media, const Ids& prompt);

    // Answers a prompt about an image, or transcribes a sound, greedily. For a recogniser the prompt is the beginning
    // of the transcript.
    // RequestError: no language graphs, a prompt that is too long, an unknown word, a bad image or sound.
    // GraphError: logits or sizes are NaN.
    Answer generate(const Media& media, const std::string& prompt = "",
                    std::optional<std::int64_t> max_new_tokens = std::nullopt);

    // The same for ids, `bos` included, where the bundle has no text processor.
    Answer generate(const Media& media, const Ids& prompt, std::optional<std::int64_t> max_new_tokens = std::nullopt);

    // The notes of the loaded graphs: "decode: no CUDA graph: it was switched off".
    std::vector<std::string> notes() const;

    // The text processor; null where the bundle has none.
    // BundleError: it is damaged, or its special ids are not those of the manifest.
    const Words* words();

  private:
    Ids ids_of(const std::string& prompt);

    Bundle bundle_;
    std::unique_ptr<Backend> backend_;
    std::string variant_;
    std::map<std::string, std::unique_ptr<Graph>> graphs_;
    std::optional<Words> words_;
};

}  // namespace tokexport
