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
#include "tokexport/tokenizer.h"

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
    // of the transcript. Where the manifest has a record of speech, a sound may be long: it is read piece by piece, each
    // by the shortest window of the bundle that holds it, unless the session has a named variant.
    // RequestError: no language graphs, a prompt that is too long, an unknown word, a bad image or sound; a language,
    // task or times that the model lacks; words for a tokenizer.json, which this library does not turn into ids.
    // GraphError: logits or sizes are NaN.
    Answer generate(const Media& media, const std::string& prompt = "", const GenerateOptions& options = {});

    // The same for ids: with `bos`, or the whole prompt of a recogniser.
    Answer generate(const Media& media, const Ids& prompt, const GenerateOptions& options = {});

    // The same about several images, in their order, of a bundle that was exported for as many or more: the prompt holds
    // the `placeholder` of the generation record once for each. RequestError also: the bundle takes fewer. The pictures of
    // a bundle for videos are the frames of one, as many as it reads, in their order.
    Answer generate(const std::vector<Media>& media, const Ids& prompt, const GenerateOptions& options = {});

    // The notes of the loaded graphs: "decode: no CUDA graph: it was switched off".
    std::vector<std::string> notes() const;

    // The text processor `words`; null where the bundle has none.
    // BundleError: it is damaged, or its special ids are not those of the manifest.
    const Words* words();

    // The text processor `tokenizers`; null where the bundle has none.
    // BundleError: it is damaged, has parts that this library does not know, or more ids than the model.
    const Tokenizer* tokenizer();

    // The text of ids up to the first `eos`, without special ones; empty where the bundle has no text processor.
    // GraphError: the processor has no such id.
    std::string detokenize(const Ids& ids);

  private:
    Tensors run(const Variant& variant, const std::string& role, Tensors inputs);
    Tensors encode(const Variant& variant, const Media& media, const Tensors& extra);
    // The frames of a video as the encoder takes them; other media as they are.
    std::vector<Media> as_read(const std::vector<Media>& media) const;
    Answer transcribed(const Media& media, const Ids& words, const std::optional<Ids>& whole,
                       const GenerateOptions& options);
    GenerateOptions checked_options(const GenerateOptions& options) const;
    const Words& typed();
    Ids ids_of(const std::string& prompt);

    Bundle bundle_;
    std::unique_ptr<Backend> backend_;
    std::string variant_;
    std::map<std::pair<std::string, std::string>, std::unique_ptr<Graph>> graphs_;  // by variant and role
    std::optional<Words> words_;
    std::optional<Tokenizer> tokenizer_;
};

}  // namespace tokexport
