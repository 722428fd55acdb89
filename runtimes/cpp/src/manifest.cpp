#include "tokexport/manifest.h"

#include <algorithm>

#include "asking_records.h"
#include "fields.h"
#include "file_record.h"
#include "media_records.h"
#include "schema.h"
#include "tokexport/errors.h"

namespace tokexport {
namespace {

constexpr std::int64_t kInt = INT32_MAX;
constexpr std::int64_t kLongestPrompt = std::int64_t{1} << 20;
constexpr std::int64_t kMostImages = 64;
constexpr std::size_t kMostAxes = 16;

using Names = std::vector<std::string>;

const Names kRoles = {"encoder", "embed", "prefill", "decode", "text"};
const Names kForms = {"portable", "plugin", "inlined"};
const Names kTypes = {"float32", "float16", "bfloat16", "float64", "int64", "int32", "int8", "uint8", "bool"};

// A file that something needs and `files` lacks.
struct Unlisted {
    std::string name;
};

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
    fields.ignore("span");
    fields.done();
    return seam;
}

CompressionRecord compression_of(const Field& field) {
    Fields fields(field);
    CompressionRecord compression{fields.at("method").text(),        fields.at("ratio").text(),
                                  fields.at("tokens_in").integer(1), fields.at("tokens_out").integer(0),
                                  fields.at("size_bias").boolean(),  seam_of(fields.at("seam"))};
    field.must(compression.tokens_out > 0 || compression.seam.graph == "prefill",
               "no token is left in front of the language model");
    if (const auto params = fields.find("params")) compression.params = params->json();
    fields.ignore("assume_no_padding");
    fields.ignore("rebuilt");
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
    const auto ids = [&](const char* key) {
        const auto found = fields.find(key);
        return found ? found->integers(0, record.vocabulary - 1) : std::vector<std::int64_t>();
    };
    record.suppress = ids("suppress");
    record.begin_suppress = ids("begin_suppress");
    if (const auto speech = fields.optional("speech")) record.speech = speech_of(*speech, record.vocabulary);
    const auto images = fields.optional("images"), placeholder = fields.optional("placeholder");
    field.must(images.has_value() == placeholder.has_value(), "`images` and `placeholder` go together");
    if (images) record.images = images->integer(2, kMostImages);
    if (placeholder) record.placeholder = placeholder->integer(0, record.vocabulary - 1);
    field.must(!images || !record.cross, "a prompt has no places for images in cross-attention");
    if (const auto by_position = fields.optional("by_position")) {
        record.by_position = by_position->boolean();
        by_position->must(record.by_position && !images && !record.cross, "it is true, of prompts with one image");
    }
    if (const auto prompt = fields.optional("prompt")) check_prompt(*prompt, record);
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
        const bool several = variant.generation && variant.generation->images > 1 && graph->first != "text";
        field.must(!several || graph->second.inputs.count("image_starts") > 0, what + "image_starts'");
    }
}

// Under schema 2 decode returns new keys and values alone, under 1.x whole caches.
void check_contract(const Field& field, const Variant& variant, const std::string& schema) {
    const bool whole = schema.rfind("1.", 0) == 0;
    const auto decode = variant.graphs.find("decode");
    if (decode == variant.graphs.end()) return;
    for (const auto& [name, past] : decode->second.inputs) {
        if (name.rfind("past_", 0) != 0) continue;
        const std::string wanted = (whole ? "present_" : "new_") + name.substr(5);
        const auto found = decode->second.outputs.find(wanted);
        field.must(found != decode->second.outputs.end(),
                   "the graph `decode` has no '" + wanted + "', which schema " + schema + " asks for");
        auto shape = past.shape;
        if (!whole && shape.size() > 2) shape[2] = 1;
        field.must(found->second.dtype == past.dtype && found->second.shape == shape,
                   "'" + wanted + "' of the graph `decode` is " +
                       text_of(found->second.dtype, found->second.shape) + ", and not " + text_of(past.dtype, shape));
    }
}

// Prefill gives each state as decode takes it, and decode returns what takes its place.
void check_states(const Field& field, const Variant& variant) {
    const auto decode = variant.graphs.find("decode");
    if (decode == variant.graphs.end()) return;
    const auto check = [&](const char* role, const std::string& name, const TensorRecord& state) {
        const auto graph = variant.graphs.find(role);
        if (graph == variant.graphs.end()) return;
        const auto found = graph->second.outputs.find(name);
        const std::string of = "'" + name + "' of the graph `" + role + "`";
        field.must(found != graph->second.outputs.end(), "there is no " + of + ", which is a state of decode");
        field.must(found->second.dtype == state.dtype && found->second.shape == state.shape,
                   of + " is " + text_of(found->second.dtype, found->second.shape) + ", and decode takes " +
                       text_of(state.dtype, state.shape));
    };
    for (const auto& [name, state] : decode->second.inputs) {
        if (name.rfind("state_", 0) != 0) continue;
        check("prefill", name, state);
        check("decode", "new_" + name, state);
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
    if (const auto preprocess = fields.optional("preprocess")) variant.preprocess = preprocess_of(*preprocess);
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
    fields.ignore("llm_weights");
    fields.done();
    return variant;
}

void read_processor(const Field& field, Manifest& manifest) {
    Fields fields(field);
    const auto kind = fields.find("kind");
    const std::string name = kind ? kind->one_of({"words", "tokenizers", "none"}) : "none";
    const auto file = [&](const char* key, const std::string& needed_by) -> std::string {
        const auto found = fields.optional(key);
        field.must(found || name != needed_by, "a " + needed_by + " processor needs its " + key + " file");
        if (!found) return "";
        std::string path = inside(*found, found->text());
        if (!manifest.files.count(path)) throw Unlisted{path};
        return name == needed_by ? path : "";
    };
    manifest.vocabulary = file("vocabulary", "words");
    manifest.tokenizer = file("tokenizer", "tokenizers");
    // Names of classes: the outputs of an image tower are the caller's to read.
    file("labels", "");
    fields.done();
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
    for (const Field& variant : variants.list()) {
        manifest.variants.push_back(variant_of(variant));
        check_contract(variant, manifest.variants.back(), manifest.schema);
        check_states(variant, manifest.variants.back());
    }
    variants.must(!manifest.variants.empty(), "there is none");
    const SpeechRecord* first = nullptr;
    for (const Variant& variant : manifest.variants) {
        if (!variant.generation || !variant.generation->speech) continue;
        first = first ? first : &*variant.generation->speech;
        variants.must(heard_alike(*variant.generation->speech, *first), "their records of speech differ");
    }
    if (const auto preprocess = fields.optional("preprocess")) manifest.preprocess = preprocess_of(*preprocess);
    if (const auto processor = fields.find("processor")) read_processor(*processor, manifest);
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

void check_listed(const Manifest& manifest) {
    for (const Variant& variant : manifest.variants)
        for (const auto& [role, graph] : variant.graphs)
            for (const auto& [form, name] : graph.forms)
                if (!manifest.files.count(name)) throw Unlisted{name};
}

}  // namespace

Manifest Manifest::parse(const std::string& text, const std::string& where) {
    const Document document = document_of(text, where);
    const bool lenient = is_newer_minor(schema_of(document), where, kNewestManifest);
    try {
        Manifest manifest = manifest_of(document.root(lenient));
        check_listed(manifest);
        return manifest;
    } catch (const Unlisted& file) {
        throw BundleError("manifest.json uses " + file.name + " but does not list it", where, kAgain);
    } catch (const BadField& error) {
        throw BundleError(
            std::string("manifest.json is wrong ") + error.what(), where,
            "Keys of your own begin with `x-`. Everything else is written by tokexport: export it again.");
    }
}

}  // namespace tokexport
