#include "tokexport/session.h"

#include <algorithm>

#include "images.h"
#include "repeats.h"
#include "speech.h"
#include "tokexport/errors.h"
#include "transcribe.h"
#include "windows.h"

namespace tokexport {
namespace {

bool fits(const Tensor& tensor, const TensorRecord& record) {
    if (tensor.dtype() != record.dtype || tensor.shape().size() != record.shape.size()) return false;
    for (std::size_t axis = 0; axis < record.shape.size(); ++axis)
        if (record.shape[axis] != -1 && record.shape[axis] != tensor.shape()[axis]) return false;
    return true;
}

void check_inputs(const std::string& role, const GraphRecord& record, const Tensors& inputs) {
    for (const auto& [name, tensor] : inputs)
        if (!record.inputs.count(name))
            throw RequestError(role + " has no input '" + name + "'", "", nearest(name, keys(record.inputs), "inputs"));
    for (const auto& [name, wanted] : record.inputs) {
        const std::string expected = text_of(wanted.dtype, wanted.shape);
        const auto found = inputs.find(name);
        if (found == inputs.end())
            throw RequestError(role + " needs input '" + name + "'", "", "Pass " + expected + ".");
        const Tensor& tensor = found->second;
        if (!fits(tensor, wanted) || (tensor.count() > 0 && tensor.buffer() == nullptr))
            throw RequestError("input '" + name + "' of " + role + " is " + text_of(tensor.dtype(), tensor.shape()),
                               "tensor " + wanted.name, "Expected " + expected + ".");
    }
}

// The preprocessed shape must be the one that the graph takes, before memory of that size is allocated.
void check_record(const Preprocess& record, const TensorRecord& input) {
    std::vector<std::int64_t> made;
    if (const auto* image = std::get_if<PreprocessRecord>(&record)) made = image->shape();
    if (const auto* sound = std::get_if<LogMelRecord>(&record)) made = {1, sound->mels, sound->frames};
    if (const auto* sound = std::get_if<WaveformRecord>(&record)) made = {1, sound->samples};
    bool same = made.size() == input.shape.size();
    for (std::size_t axis = 0; same && axis < made.size(); ++axis)
        same = input.shape[axis] == -1 || input.shape[axis] == made[axis];
    if (!made.empty() && !same)
        throw BundleError("preprocess makes " + text_of(made) + ", and the encoder takes " + text_of(input.shape),
                          "manifest.json", "Export the bundle again.");
}

}  // namespace

Session::Session(Bundle bundle, std::unique_ptr<Backend> backend, const std::string& variant)
    : bundle_(std::move(bundle)), backend_(std::move(backend)), variant_(variant) {
    if (!backend_)
        throw RequestError("a session needs a backend", "", "Pass onnxruntime_backend() or tensorrt_backend().");
    bundle_.variant(variant_);
}

Tensors Session::run(const std::string& role, Tensors inputs) { return run(variant(), role, std::move(inputs)); }

Tensors Session::run(const Variant& variant, const std::string& role, Tensors inputs) {
    const GraphRecord& record = bundle_.graph(role, variant.name);
    check_inputs(role, record, inputs);
    auto& graph = graphs_[{variant.name, role}];
    if (!graph) graph = backend_->load(bundle_, variant, role);
    Tensors feeds;
    for (auto& [name, tensor] : inputs) feeds[record.inputs.at(name).name] = std::move(tensor);
    inputs.clear();
    Tensors results = graph->run(std::move(feeds)), found;
    for (const auto& [name, wanted] : record.outputs) {
        const auto result = results.find(wanted.name);
        if (result == results.end() || !fits(result->second, wanted))
            throw GraphError(
                "output '" + name + "' of " + role + " is " +
                    (result == results.end() ? "missing" : text_of(result->second.dtype(), result->second.shape())) +
                    ", and the manifest says " + text_of(wanted.dtype, wanted.shape),
                "tensor " + wanted.name, "Export the bundle again.");
        found[name] = result->second;
    }
    return found;
}

std::vector<std::string> Session::notes() const {
    std::vector<std::string> found;
    for (const auto& [of, graph] : graphs_) {
        if (!graph) continue;
        for (const std::string& note : graph->notes()) {
            const std::string text = of.second + ": " + note;
            if (std::find(found.begin(), found.end(), text) == found.end()) found.push_back(text);
        }
    }
    return found;
}

Tensors Session::encode(const Media& media, const Tensors& extra) { return encode(variant(), media, extra); }

Tensors Session::encode(const Variant& variant, const Media& media, const Tensors& extra) {
    if (reads_text() && !extra.count("text"))
        throw RequestError("what this encoder keeps of an input follows from the question, and none is given",
                           bundle_.path().string(), "Give it: encode(media, prompt).");
    Tensors inputs = extra;
    for (const auto& [name, wanted] : bundle_.graph("encoder", variant.name).inputs) {
        if (extra.count(name)) continue;
        const Preprocess& record = preprocess_of(bundle_.manifest(), variant);
        if (!std::holds_alternative<Tensor>(media)) check_record(record, wanted);
        inputs[name] = encoder_input(media, record);
        break;
    }
    return run(variant, "encoder", std::move(inputs));
}

Tensors Session::encode(const Media& media, const std::string& prompt) { return encode(media, ids_of(prompt)); }

Tensors Session::encode(const Media& media, const Ids& prompt) {
    if (!reads_text())
        throw RequestError("what this encoder keeps follows from no question, so nothing reads the prompt",
                           bundle_.path().string(), "Leave the prompt out.");
    const TextRecord& record = *variant().text;
    const auto& inputs = bundle_.graph("text", variant_).inputs;
    const auto input = inputs.find("input_ids");
    if (input == inputs.end() || input->second.shape.size() != 2)
        throw BundleError("the graph of text has no input_ids [1, L]", "manifest.json", "Export the bundle again.");
    const Tensor ids = padded(prompt, input->second.shape[1], record.pad, record.vocabulary);
    return encode(media, run("text", {{"input_ids", ids}}));
}

const Words& Session::typed() {
    if (tokenizer() != nullptr)
        throw RequestError("this library reads ids by " + bundle_.manifest().tokenizer + ", and turns no words into ids",
                           bundle_.path().string(),
                           "Pass the prompt as ids (--prompt-ids), or run it in Python, which reads words.");
    if (words() == nullptr)
        throw RequestError("the bundle has no text processor", bundle_.path().string(), "Pass the prompt as ids.");
    return *words();
}

Ids Session::ids_of(const std::string& prompt) { return typed().prompt(prompt); }

GenerateOptions Session::checked_options(const GenerateOptions& options) const {
    if (!variant().generation)
        throw RequestError("the bundle has no language graphs", bundle_.path().string(), bundle_.without_language());
    return checked(options, *variant().generation, bundle_.path().string());
}

Answer Session::transcribed(const Media& media, const Ids& words, const std::optional<Ids>& whole,
                            const GenerateOptions& options) {
    const Ear ear{bundle_.manifest(),
                  variant(),
                  !variant_.empty(),
                  [this](const Variant& variant, const Media& part) { return encode(variant, part, {}); },
                  [this](const Variant& variant, const std::string& role, Tensors inputs) {
                      return run(variant, role, std::move(inputs));
                  },
                  [this](const Ids& ids) { return detokenize(ids); }};
    return transcribe(ear, media, words, whole, options);
}

Answer Session::generate(const Media& media, const std::string& prompt, const GenerateOptions& options) {
    const GenerateOptions asked = checked_options(options);
    if (!variant().generation->speech) return generate(media, ids_of(prompt), options);
    const std::string begin = stripped(prompt);
    if (begin.empty()) return transcribed(media, {}, std::nullopt, asked);
    if (asked.timestamps)
        throw RequestError("a transcript that begins with given words has no times", "",
                           "Leave the prompt or timestamps out.");
    // A word inside a text has its space with it.
    return transcribed(media, typed().tokenize(" " + begin), std::nullopt, asked);
}

Answer Session::generate(const Media& media, const Ids& prompt, const GenerateOptions& options) {
    return generate(std::vector<Media>{media}, prompt, options);
}

std::vector<Media> Session::as_read(const std::vector<Media>& media) const {
    for (const auto& [name, input] : bundle_.graph("encoder", variant_).inputs)
        if (name != "text") return of_frames(media, preprocess_of(bundle_.manifest(), variant()), input);
    return media;
}

Answer Session::generate(const std::vector<Media>& media, const Ids& prompt, const GenerateOptions& options) {
    const GenerateOptions asked = checked_options(options);
    const GenerationRecord& record = *variant().generation;
    const std::vector<Media> given = as_read(media);
    check_count(record, static_cast<std::int64_t>(given.size()));
    if (record.speech) {
        for (const std::string& name : asked_for(asked))
            throw RequestError("ids are a whole prompt, so " + name + " has no use beside them", "",
                               "Leave " + name + " out.");
        return transcribed(given[0], {}, prompt, asked);
    }
    const auto run_role = [this](const std::string& role, Tensors inputs) { return run(role, std::move(inputs)); };
    Ids words = prompt;
    words.erase(std::remove(words.begin(), words.end(), record.placeholder), words.end());
    std::vector<Tensors> read;
    for (const Media& one : given) read.push_back(reads_text() ? encode(one, words) : encode(one));
    const Tensors encoded = record.images > 1 ? joined(read) : read[0];
    Answer answer = greedy(run_role, variant(), encoded, prompt, asked.max_new_tokens);
    const std::int64_t limit = limit_of(record, asked.max_new_tokens);
    answer.finished = static_cast<std::int64_t>(answer.ids.size()) < limit;
    if (!answer.finished)
        answer.notes.push_back("the limit of " + std::to_string(limit) + " tokens cut the answer off");
    if (const auto again = repeated(answer.ids))
        answer.notes.push_back("the answer ends in the same " + std::to_string(again->ids.size()) + " tokens " +
                               std::to_string(again->times) + " times");
    answer.text = detokenize(answer.ids);
    return answer;
}

std::string Session::detokenize(const Ids& ids) {
    if (words() != nullptr) return words()->detokenize(ids);
    if (tokenizer() == nullptr) return "";
    const auto& generation = variant().generation;
    Ids said;
    for (const std::int64_t id : ids) {
        if (generation && std::count(generation->eos.begin(), generation->eos.end(), id)) break;
        if (!tokenizer()->has(id))
            throw GraphError("the model answered with id " + std::to_string(id) + ", and the tokenizer has none such",
                             bundle_.manifest().tokenizer,
                             "The graphs and the tokenizer are not of one model: export the bundle again.");
        said.push_back(id);
    }
    return tokenizer()->decode(said);
}

const Tokenizer* Session::tokenizer() {
    const std::string& file = bundle_.manifest().tokenizer;
    if (file.empty() || tokenizer_) return file.empty() ? nullptr : &*tokenizer_;
    bundle_.check_held({file});
    Tokenizer read = Tokenizer::load(bundle_.path() / file);
    bundle_.check_held({file});
    const auto& generation = variant().generation;
    if (generation && read.vocabulary() > generation->vocabulary)
        throw BundleError("the tokenizer has an id " + std::to_string(read.vocabulary() - 1) +
                              ", and the model a vocabulary of " + std::to_string(generation->vocabulary),
                          file, "The tokenizer and the graphs are not of one model: export the bundle again.");
    return &tokenizer_.emplace(std::move(read));
}

const Words* Session::words() {
    const std::string& file = bundle_.manifest().vocabulary;
    if (file.empty()) return nullptr;
    if (!words_) {
        bundle_.check_held({file});
        Words read = Words::load(bundle_.path() / file);
        bundle_.check_held({file});
        const auto& generation = variant().generation;
        if (generation &&
            (read.bos() != generation->bos || read.pad() != generation->pad || read.eos() != generation->eos))
            throw BundleError("bos, pad and eos of " + file + " are not those of the manifest's generation record",
                              bundle_.path().string(), "Export the bundle again.");
        words_ = std::move(read);
    }
    return &*words_;
}

}  // namespace tokexport
