#include "tokexport/manifest.h"

#include <algorithm>

#include "fields.h"
#include "file_record.h"
#include "schema.h"
#include "tokexport/errors.h"

namespace tokexport {
namespace {

constexpr std::int64_t kInt = INT32_MAX;
// No model takes a larger picture or spectrogram; refused before memory is allocated.
constexpr std::int64_t kMostPixels = std::int64_t{1} << 24;
constexpr std::int64_t kLargest = std::int64_t{1} << 26;
constexpr std::int64_t kLongestPrompt = std::int64_t{1} << 20;
constexpr std::size_t kMostAxes = 16;
constexpr std::int64_t kLongestWindow = 1 << 16;

using Names = std::vector<std::string>;

const Names kRoles = {"encoder", "embed", "prefill", "decode", "text"};
const Names kForms = {"portable", "plugin", "inlined"};
const Names kTypes = {"float32", "float16", "bfloat16", "float64", "int64", "int32", "int8", "uint8", "bool"};
const Names kFilters = {"nearest", "bilinear", "bicubic", "lanczos"};
const Names kCrops = {"none", "center", "pad"};

// Names in the order of the enumeration.
template <class Enumeration>
Enumeration named(const Field& field, const Names& names) {
    const std::string name = field.one_of(names);
    return static_cast<Enumeration>(std::find(names.begin(), names.end(), name) - names.begin());
}

void check_key(const Field& field, const std::string& key, const Names& known, const std::string& kind) {
    field.must(std::count(known.begin(), known.end(), key) > 0, "unknown. " + nearest(key, known, kind));
}

// A plain relative path with forward slashes that stays in its folder.
std::string inside(const Field& field, const std::string& path) {
    const bool odd =
        std::any_of(path.begin(), path.end(), [](unsigned char c) { return c == '\\' || c == ':' || c < 0x20; });
    field.must(!odd && !path.empty() && path[0] != '/', "path '" + path + "' leaves the bundle, or is none");
    for (std::size_t begin = 0; begin <= path.size();) {
        const std::size_t end = std::min(path.find('/', begin), path.size());
        const std::string part = path.substr(begin, end - begin);
        field.must(part != "..", "path '" + path + "' leaves the bundle");
        field.must(!part.empty() && part != ".", "path '" + path + "' is not in its plain form");
        begin = end + 1;
    }
    return path;
}

std::map<std::string, TensorRecord> tensors_of(const Field& field) {
    std::map<std::string, TensorRecord> found;
    for (const auto& [role, tensor] : field.items()) {
        Fields fields(tensor);
        found[role] = {fields.at("name").text(), named<DType>(fields.at("dtype"), kTypes),
                       fields.at("shape").integers(-1, kInt)};
        tensor.must(found[role].shape.size() <= kMostAxes, "its shape has too many axes");
        fields.done();
    }
    return found;
}

GraphRecord graph_of(const Field& field) {
    Fields fields(field);
    GraphRecord graph;
    const Field forms = fields.at("forms");
    for (const auto& [form, path] : forms.items()) {
        check_key(path, form, kForms, "forms");
        graph.forms[form] = inside(path, path.text());
    }
    forms.must(!graph.forms.empty(), "it is empty");
    graph.precision = fields.at("precision").one_of({"fp32", "fp16", "bf16"});
    graph.inputs = tensors_of(fields.at("inputs"));
    graph.outputs = tensors_of(fields.at("outputs"));
    fields.done();
    return graph;
}

SeamRecord seam_of(const Field& field) {
    Fields fields(field);
    SeamRecord seam{fields.at("kind").text(), fields.at("graph").one_of(kRoles), fields.at("tensor").text()};
    fields.ignore("grid");
    fields.ignore("prefix");
    fields.done();
    return seam;
}

CompressionRecord compression_of(const Field& field) {
    Fields fields(field);
    CompressionRecord compression{fields.at("method").text(),        fields.at("ratio").text(),
                                  fields.at("tokens_in").integer(1), fields.at("tokens_out").integer(1),
                                  fields.at("size_bias").boolean(),  seam_of(fields.at("seam"))};
    fields.ignore("params");
    fields.ignore("assume_no_padding");
    fields.done();
    return compression;
}

GenerationRecord generation_of(const Field& field) {
    Fields fields(field);
    GenerationRecord record;
    const auto attention = fields.find("attention");
    record.cross = attention && attention->one_of({"self", "cross"}) == "cross";
    record.tokens_in = fields.at("tokens_in").integer(1, kInt);
    record.prompt_length = fields.at("prompt_length").integer(1, kLongestPrompt);
    record.max_new_tokens = fields.at("max_new_tokens").integer(1, kInt);
    record.vocabulary = fields.at("vocabulary").integer(1, kInt);
    record.bos = fields.at("bos").integer(0, record.vocabulary - 1);
    record.pad = fields.at("pad").integer(0, record.vocabulary - 1);
    const Field eos = fields.at("eos"), span = fields.at("image_span");
    record.eos = eos.integers(0, record.vocabulary - 1);
    eos.must(!record.eos.empty(), "it is empty");
    const auto pair = span.integers(0);
    span.must(pair.size() == 2, "it is no pair");
    record.offset = pair[0];
    record.kept = pair[1];
    span.must(record.offset <= record.prompt_length && record.kept >= 1 && record.kept <= record.tokens_in,
              text_of(pair) + " does not fit prompt_length and tokens_in");
    span.must(!record.cross || record.offset == 0,
              text_of(pair) + " begins inside a text that cross-attention leaves alone");
    fields.at("kv_capacity").integers(0);
    fields.done();
    return record;
}

TextRecord text_record_of(const Field& field) {
    Fields fields(field);
    TextRecord record;
    record.vocabulary = fields.at("vocabulary").integer(1);
    const Field pad = fields.at("pad"), blank = fields.at("blank");
    record.pad = pad.integer(0, record.vocabulary - 1);
    const auto ids = blank.integers(0, record.vocabulary - 1);
    pad.must(std::count(ids.begin(), ids.end(), record.pad) > 0, "it is not among the blank ids");
    fields.done();
    return record;
}

// What generation and the question need of the graph of a role, as in runtimes/bundle/manifest.py.
void check_roles(const Field& field, const Variant& variant) {
    struct Needed {
        const char* role;
        Names inputs, outputs;
    };
    static const std::vector<Needed> kNeeded = {
        {"text", {"input_ids"}, {"text"}},
        {"embed", {"input_ids", "tokens"}, {"inputs_embeds"}},
        {"prefill", {"token_bias", "last_index"}, {"logits"}},
        {"decode", {"input_ids", "write_index", "token_bias"}, {"logits"}},
    };
    const auto encoder = variant.graphs.find("encoder");
    if (encoder != variant.graphs.end()) {
        field.must(!encoder->second.inputs.empty(), "the graph `encoder` has no input");
        field.must(!variant.generation || encoder->second.outputs.count("tokens") > 0,
                   "the graph `encoder` has no output `tokens`, which generation reads");
    }
    for (const Needed& needed : kNeeded) {
        const auto graph = variant.graphs.find(needed.role);
        if (graph == variant.graphs.end()) continue;
        const std::string what = "the graph `" + std::string(needed.role) + "` has no '";
        for (const std::string& name : needed.inputs)
            field.must(graph->second.inputs.count(name) > 0, what + name + "'");
        for (const std::string& name : needed.outputs)
            field.must(graph->second.outputs.count(name) > 0, what + name + "'");
    }
}

Variant variant_of(const Field& field) {
    Fields fields(field);
    Variant variant;
    const Field name = fields.at("name");
    variant.name = inside(name, name.text());
    // Engines are files of this name.
    name.must(variant.name.find('/') == std::string::npos, "name '" + variant.name + "' has a slash");
    for (const Field& record : fields.at("compression").list()) variant.compression.push_back(compression_of(record));
    for (const auto& [role, graph] : fields.at("graphs").items()) {
        check_key(graph, role, kRoles, "roles");
        variant.graphs[role] = graph_of(graph);
    }
    if (const auto generation = fields.optional("generation")) variant.generation = generation_of(*generation);
    if (const auto text = fields.optional("text")) variant.text = text_record_of(*text);
    check_roles(field, variant);
    const auto text_graph = variant.graphs.find("text");
    if (text_graph != variant.graphs.end()) {
        const auto ids = text_graph->second.inputs.find("input_ids");
        field.must(ids != text_graph->second.inputs.end() && ids->second.shape.size() == 2 &&
                       ids->second.shape[1] >= 1 && ids->second.shape[1] <= kLongestPrompt,
                   "input_ids of the graph `text` is not [1, L]");
    }
    field.must(variant.text.has_value() == (variant.graphs.count("text") > 0),
               "the graph `text` and the record `text` go together, and one is missing");
    fields.ignore("device");
    fields.done();
    return variant;
}

std::array<double, 3> three(const Field& field) {
    const auto values = field.list();
    field.must(values.size() == 3, "it is not three numbers");
    return {values[0].number(), values[1].number(), values[2].number()};
}

PreprocessRecord image_of(Fields& fields) {
    PreprocessRecord record;
    const Field size = fields.at("size");
    const auto pair = size.integers(1, kInt);
    size.must(pair.size() == 2 && pair[0] <= kMostPixels / pair[1],
              text_of(pair) + " is no height and width of at most " + std::to_string(kMostPixels) + " pixels");
    record.height = static_cast<int>(pair[0]);
    record.width = static_cast<int>(pair[1]);
    record.resample = named<PreprocessRecord::Resample>(fields.at("resample"), kFilters);
    if (const auto crop = fields.find("crop")) record.crop = named<PreprocessRecord::Crop>(*crop, kCrops);
    if (const auto antialias = fields.find("antialias")) record.antialias = antialias->boolean();
    if (const auto rescale = fields.find("rescale")) record.rescale = rescale->number();
    record.mean = three(fields.at("mean"));
    record.std = three(fields.at("std"));
    if (const auto layout = fields.find("layout")) layout->one_of({"NCHW"});
    return record;
}

LogMelRecord log_mel_of(const Field& field, Fields& fields) {
    const auto whole = [&](const char* key, std::int64_t least, std::int64_t most) {
        return static_cast<int>(fields.at(key).integer(least, most));
    };
    const LogMelRecord record{whole("sample_rate", 1, kInt), whole("n_fft", 2, kLongestWindow), whole("hop", 1, kInt),
                              whole("mels", 1, kInt), whole("frames", 1, kInt)};
    field.must(record.samples() > record.n_fft / 2, std::to_string(record.samples()) +
                                                        " samples cannot be mirrored at the ends for windows of " +
                                                        std::to_string(record.n_fft));
    const std::int64_t tallest = std::max<std::int64_t>(record.frames, record.n_fft);
    field.must(record.samples() <= kLargest && tallest <= kLargest / record.mels &&
                   record.frames <= kLargest / record.n_fft,
               "the sound or its spectrogram has more than " + std::to_string(kLargest) + " values");
    return record;
}

VideoRecord video_of(Fields& fields) {
    Fields frame(fields.at("frame"));
    if (const auto kind = frame.find("kind")) kind->one_of({"image"});
    const VideoRecord record{static_cast<int>(fields.at("frames").integer(1, kInt)), image_of(frame)};
    frame.done();
    return record;
}

Preprocess preprocess_of(const Field& field) {
    Fields fields(field);
    const auto kind = fields.find("kind");
    const std::string name = kind ? kind->one_of({"image", "video", "log_mel"}) : "image";
    Preprocess found;
    if (name == "log_mel")
        found = log_mel_of(field, fields);
    else if (name == "video")
        found = video_of(fields);
    else
        found = image_of(fields);
    fields.done();
    return found;
}

std::string vocabulary_of(const Field& field) {
    Fields fields(field);
    const auto kind = fields.find("kind"), vocabulary = fields.optional("vocabulary");
    const bool words = kind && kind->one_of({"words", "none"}) == "words";
    field.must(!words || vocabulary, "a words processor needs its vocabulary file");
    const std::string path = vocabulary ? inside(*vocabulary, vocabulary->text()) : "";
    fields.done();
    return words ? path : "";
}

Manifest manifest_of(const Field& field) {
    Fields fields(field);
    Manifest manifest;
    manifest.schema = fields.at("schema").text();
    manifest.tokexport = fields.at("tokexport").text();
    const auto source = Fields(fields.at("source")).find("kind");
    manifest.builtin = source && source->text() == "builtin";
    for (const auto& [name, file] : fields.at("files").items()) manifest.files[inside(file, name)] = file_record(file);
    const Field variants = fields.at("variants");
    for (const Field& variant : variants.list()) manifest.variants.push_back(variant_of(variant));
    variants.must(!manifest.variants.empty(), "there is none");
    if (const auto preprocess = fields.optional("preprocess")) manifest.preprocess = preprocess_of(*preprocess);
    if (const auto processor = fields.find("processor")) manifest.vocabulary = vocabulary_of(*processor);
    fields.ignore("parity");
    fields.ignore("versions");
    fields.done();
    return manifest;
}

// The text of `schema`; empty where there is none.
std::string schema_of(const Document& document) {
    try {
        return Fields(document.root()).at("schema").text();
    } catch (const BadField&) {
        return "";
    }
}

Document document_of(const std::string& text, const std::string& where) {
    try {
        return Document(text);
    } catch (const BadField& error) {
        throw BundleError(std::string("manifest.json is damaged or cut short: ") + error.what(), where, kAgain);
    }
}

void check_listed(const Manifest& manifest, const std::string& where) {
    const auto check = [&](const std::string& name) {
        if (!manifest.files.count(name))
            throw BundleError("manifest.json uses " + name + " but does not list it", where, kAgain);
    };
    for (const Variant& variant : manifest.variants)
        for (const auto& [role, graph] : variant.graphs)
            for (const auto& [form, name] : graph.forms) check(name);
    if (!manifest.vocabulary.empty()) check(manifest.vocabulary);
}

}  // namespace

Manifest Manifest::parse(const std::string& text, const std::string& where) {
    const Document document = document_of(text, where);
    const bool lenient = is_newer_minor(schema_of(document), where);
    try {
        Manifest manifest = manifest_of(document.root(lenient));
        check_listed(manifest, where);
        return manifest;
    } catch (const BadField& error) {
        throw BundleError(
            std::string("manifest.json is wrong ") + error.what(), where,
            "Keys of your own begin with `x-`. Everything else is written by tokexport: export it again.");
    }
}

}  // namespace tokexport
