#include <sys/stat.h>

#include "says.h"
#include "tokexport/bundle.h"
#include "tokexport/errors.h"
#include "tokexport/words.h"
#include "toy.h"

using namespace tokexport;
using toy::with;

static Manifest parse(const std::string& text) { return Manifest::parse(text, "manifest.json"); }
static Manifest changed(const std::string& from, const std::string& to) {
    return parse(with(toy::kManifest, from, to));
}

TEST_CASE("a bundle is read") {
    toy::Folder folder;
    const Bundle bundle = Bundle::open(toy::bundle(folder));
    CHECK(bundle.verify_hashes() == 1);
    CHECK(bundle.variant().name == "toy-0.5");
    CHECK(bundle.graph("encoder").inputs.at("pixel_values").shape == std::vector<std::int64_t>{1, 3, 2, 2});
    CHECK(bundle.graph("encoder").outputs.at("tokens").dtype == DType::float32);
    CHECK(bundle.model_path("encoder", "portable") == folder.path / "graphs/encoder.onnx");
    CHECK(bundle.variant().generation->offset == 1);
    CHECK(bundle.variant().generation->kept == 2);
    CHECK(std::get<PreprocessRecord>(bundle.manifest().preprocess).rescale == 1);
}

TEST_CASE("what a bundle does not have is named, with what it has") {
    toy::Folder folder;
    const Bundle bundle = Bundle::open(toy::bundle(folder));
    CHECK_SAYS(bundle.variant("toy-0.9"), RequestError, "Did you mean toy-0.5?");
    CHECK(bundle.variant("0.5").name == "toy-0.5");
    CHECK_SAYS(bundle.variant("0.75"), RequestError, "Known variants: toy-0.5");
    CHECK_SAYS(bundle.graph("decode"), RequestError, "--parts all");
    CHECK_SAYS(bundle.model_path("encoder", "plugin"), RequestError, "Known forms: portable");
}

TEST_CASE("a folder that is no bundle is refused") {
    toy::Folder folder;
    CHECK_SAYS(Bundle::open(folder.path / "nowhere"), BundleError, "does not exist");
    CHECK_SAYS(Bundle::open(folder.path), BundleError, "is no bundle");
    CHECK_SAYS(Bundle::open(folder.write("file", "")), BundleError, "a bundle is a folder");
    std::filesystem::create_directory(folder.path / ".tokexport-commit");
    CHECK_SAYS(Bundle::open(toy::bundle(folder)), BundleError, "being replaced");
    std::filesystem::remove(folder.path / ".tokexport-commit");
    std::filesystem::create_symlink("nowhere", folder.path / ".tokexport-commit");
    CHECK_SAYS(Bundle::open(folder.path), BundleError, "being replaced");
}

TEST_CASE("files are there, have their size, and are no links") {
    toy::Folder folder;
    toy::bundle(folder);
    folder.write("graphs/encoder.onnx", "abcd");
    CHECK_SAYS(Bundle::open(folder.path), BundleError, "has 4 bytes, not 3");
    folder.write("graphs/encoder.onnx", "abd");
    CHECK_SAYS(Bundle::open(folder.path).verify_hashes(), BundleError, "content of graphs/encoder.onnx has changed");
    std::filesystem::remove(folder.path / "graphs/encoder.onnx");
    CHECK_SAYS(Bundle::open(folder.path), BundleError, "is missing");
    std::filesystem::create_symlink(folder.write("abc", "abc"), folder.path / "graphs/encoder.onnx");
    CHECK_SAYS(Bundle::open(folder.path), BundleError, "symbolic link");
    std::filesystem::rename(folder.path / "graphs", folder.path / "elsewhere");
    std::filesystem::remove(folder.path / "elsewhere/encoder.onnx");
    folder.write("elsewhere/encoder.onnx", "abc");
    std::filesystem::create_directory_symlink(folder.path / "elsewhere", folder.path / "graphs");
    CHECK_SAYS(Bundle::open(folder.path), BundleError, "symbolic link");
}

TEST_CASE("a pipe is refused at once") {
    toy::Folder folder;
    for (const char* name : {"graphs/encoder.onnx", "manifest.json"}) {
        toy::bundle(folder);
        std::filesystem::remove(folder.path / name);
        REQUIRE(mkfifo((folder.path / name).c_str(), 0600) == 0);
        CHECK_THROWS_AS(Bundle::open(folder.path), BundleError);
        CHECK_THROWS_AS(Words::load(folder.path / name), BundleError);
        std::filesystem::remove(folder.path / name);
    }
    toy::bundle(folder);
    std::filesystem::rename(folder.path / "manifest.json", folder.path / "m.json");
    std::filesystem::create_symlink("m.json", folder.path / "manifest.json");
    CHECK_SAYS(Bundle::open(folder.path), BundleError, "symbolic link");
}

namespace {

// A field of a protobuf message that holds bytes.
std::string field(int number, const std::string& bytes) {
    const int tag = number << 3 | 2;
    std::string text{static_cast<char>(tag < 128 ? tag : tag % 128 + 128)};
    if (tag >= 128) text += static_cast<char>(tag / 128);
    return text + static_cast<char>(bytes.size()) + bytes;
}

// A graph whose one weight lies in the file `location`.
std::string graph_of(const std::string& location) {
    return field(7, field(5, field(13, field(1, "location") + field(2, location))));
}

}  // namespace

TEST_CASE("a graph reads only files that the manifest lists") {
    toy::Folder folder;
    const auto files_of = [&](const std::string& graph) {
        folder.write("graphs/encoder.onnx", graph);
        const std::string size = "\"size\": " + std::to_string(graph.size());
        folder.write("graphs/weights", "abc");
        std::string text = with(toy::kManifest, "\"size\": 3", size);
        text = with(text, "\"files\": {",
                    "\"files\": {\"graphs/weights\": {\"size\": 3, \"sha256\": \"" + toy::kAbc + "\"}, ");
        folder.write("manifest.json", text);
        return Bundle::open(folder.path).graph_files("encoder", "portable");
    };
    CHECK(files_of(graph_of("weights")) == std::vector<std::string>{"graphs/weights", "graphs/encoder.onnx"});
    for (const char* other : {"other", "../graphs/weights", "/etc/hosts", ""})
        CHECK_SAYS(files_of(graph_of(other)), BundleError, "which manifest.json does not list");
    const std::string inner = field(5, field(13, field(1, "location") + field(2, "other")));
    const std::string in_branch = field(7, field(1, field(5, field(6, inner))));
    CHECK_SAYS(files_of(in_branch), BundleError, "reads 'graphs/other'");
    CHECK_SAYS(files_of(field(25, field(7, field(5, inner)))), BundleError, "'graphs/other'");
    CHECK(files_of("").size() == 1);
    for (const std::string& text : {std::string("\x3a\x7f"), std::string("\x0b"), std::string(20, '\xff')})
        CHECK_SAYS(files_of(text), GraphError, "no ONNX graph");
}

TEST_CASE("an open bundle holds what it opened") {
    toy::Folder folder;
    const Bundle bundle = Bundle::open(toy::bundle(folder));
    folder.write("copy", "abc");
    std::filesystem::rename(folder.path / "copy", folder.path / "graphs/encoder.onnx");
    CHECK_NOTHROW(bundle.check_held({"graphs/encoder.onnx"}));
    folder.write("graphs/encoder.onnx", "abd");
    CHECK_SAYS(bundle.graph_files("encoder", "portable"), BundleError, "has changed since the bundle was opened");
    std::filesystem::remove(folder.path / "graphs/encoder.onnx");
    CHECK_SAYS(bundle.check_held({"graphs/encoder.onnx"}), BundleError, "is missing");
    CHECK_SAYS(bundle.check_held({"other"}), BundleError, "has no file");
}

TEST_CASE("no path leaves the folder") {
    for (const char* path : {"../e", "/e", "a/../../e", "a//e", "./e", "a/", "", ".", "a\\\\e", "c:e", "a\\u0001e"}) {
        INFO(path);
        const std::string quoted = "\"" + std::string(path) + "\"";
        CHECK_SAYS(changed("\"graphs/encoder.onnx\"", quoted), BundleError, "path '");
        CHECK_SAYS(changed("\"portable\": \"graphs/encoder.onnx\"", "\"portable\": " + quoted), BundleError, "path '");
        CHECK_SAYS(changed("\"toy-0.5\"", quoted), BundleError, "at variants.0.name: path '");
    }
    CHECK_SAYS(changed("\"toy-0.5\"", "\"a/b\""), BundleError, "name 'a/b' has a slash");
}

TEST_CASE("schema versions") {
    CHECK(changed("\"1.0\"", "\"1.7\"").schema == "1.7");
    CHECK(changed("\"1.0\"", "\"2.0\"").schema == "2.0");
    // 2.6 is known here, so its unknown keys are refused; those of 2.7 are not.
    const std::string weights = R"("toy-0.5", "llm_weights": {"weights": "int4", "form": "MatMulNBits"})";
    const auto with_key = [&](const std::string& schema, const std::string& key) {
        return parse(with(with(toy::kManifest, "\"toy-0.5\"", key), "\"1.0\"", schema));
    };
    CHECK(with_key("\"2.1\"", weights).variants.size() == 1);
    const std::string rebuilt = R"("size_bias": true, "rebuilt": {"tensors": ["t"], "tokens": 4})";
    CHECK(parse(with(with(toy::kManifest, "\"size_bias\": true", rebuilt), "\"1.0\"", "\"2.4\"")).variants.size() == 1);
    const auto read = [&](const std::string& value) {
        const std::string span = R"("image_span": [1, 2], "by_position": )" + value;
        return parse(with(with(toy::kManifest, "\"image_span\": [1, 2]", span), "\"1.0\"", "\"2.6\""));
    };
    CHECK(read("true").variants[0].generation->by_position);
    CHECK_FALSE(read("null").variants[0].generation->by_position);
    CHECK_SAYS(read("false"), BundleError, "it is true, of prompts with one image");
    CHECK_SAYS(read(R"(true, "images": 2, "placeholder": 3)"), BundleError, "it is true, of prompts with one image");
    CHECK(with_key("\"2.7\"", R"("toy-0.5", "later": 1)").variants.size() == 1);
    CHECK_SAYS(with_key("\"2.6\"", R"("toy-0.5", "later": 1)"), BundleError, "later");
    CHECK_SAYS(changed("\"1.0\"", "\"3.0\""), BundleError, "reads 1.x and 2.x (manifest.json). Build a newer tokexport");
    CHECK_SAYS(changed("\"1.0\"", "\"0.9\""), BundleError, "Export it again");
    for (const char* version : {"\"1\"", "\"1.x\"", "\"-1.0\"", "\"1.0.0\"", "\"99999999999.0\"", "1.0", "null"})
        CHECK_SAYS(changed("\"1.0\"", version), BundleError, "a bundle has a version");
}

TEST_CASE("decode follows the contract of its schema") {
    const auto with_decode = [](const std::string& schema, const std::string& output, const std::string& shape) {
        const std::string graph = R"("graphs": {"decode": {"forms": {"portable": "graphs/encoder.onnx"}, "precision": "fp32",
          "inputs": {"input_ids": {"name": "i", "dtype": "int64", "shape": [1, 1]},
                     "write_index": {"name": "w", "dtype": "int64", "shape": [1]},
                     "token_bias": {"name": "b", "dtype": "float32", "shape": [1, 2]},
                     "past_key_0": {"name": "p", "dtype": "float32", "shape": [1, 2, 9, 4]}},
          "outputs": {"logits": {"name": "l", "dtype": "float32", "shape": [1, 10]},
                      ")" + output + R"(": {"name": "n", "dtype": "float32", "shape": )" + shape + "}}}, ";
        return parse(with(with(toy::kManifest, "\"graphs\": {", graph), "\"1.0\"", schema));
    };
    CHECK(with_decode("\"2.0\"", "new_key_0", "[1, 2, 1, 4]").variants.size() == 1);
    CHECK(with_decode("\"1.0\"", "present_key_0", "[1, 2, 9, 4]").variants.size() == 1);
    CHECK_SAYS(with_decode("\"2.0\"", "present_key_0", "[1, 2, 9, 4]"), BundleError,
               "has no 'new_key_0', which schema 2.0 asks for");
    CHECK_SAYS(with_decode("\"1.0\"", "new_key_0", "[1, 2, 1, 4]"), BundleError,
               "has no 'present_key_0', which schema 1.0 asks for");
    CHECK_SAYS(with_decode("\"2.0\"", "new_key_0", "[1, 2, 9, 4]"), BundleError,
               "is float32 [1, 2, 9, 4], and not float32 [1, 2, 1, 4]");
}

TEST_CASE("a state is given by prefill, and replaced by decode, as decode takes it") {
    const auto with_state = [](const std::string& name, const std::string& shape) {
        const std::string graph = R"("graphs": {"decode": {"forms": {"portable": "graphs/encoder.onnx"}, "precision": "fp32",
          "inputs": {"input_ids": {"name": "i", "dtype": "int64", "shape": [1, 1]},
                     "write_index": {"name": "w", "dtype": "int64", "shape": [1]},
                     "token_bias": {"name": "b", "dtype": "float32", "shape": [1, 2]},
                     "state_conv_0": {"name": "s", "dtype": "float32", "shape": [1, 8, 2]}},
          "outputs": {"logits": {"name": "l", "dtype": "float32", "shape": [1, 10]},
                      ")" + name + R"(": {"name": "n", "dtype": "float32", "shape": )" + shape + "}}}, ";
        return parse(with(with(toy::kManifest, "\"graphs\": {", graph), "\"1.0\"", "\"2.2\""));
    };
    CHECK(with_state("new_state_conv_0", "[1, 8, 2]").variants.size() == 1);
    CHECK_SAYS(with_state("new_state_conv_1", "[1, 8, 2]"), BundleError, "there is no 'new_state_conv_0' of the graph");
    CHECK_SAYS(with_state("new_state_conv_0", "[1, 8, 1]"), BundleError,
               "is float32 [1, 8, 1], and decode takes float32 [1, 8, 2]");
}

TEST_CASE("keys that nobody knows are refused, but for a newer minor version") {
    const std::string more = with(toy::kManifest, "\"precision\"", "\"colour\": 1, \"precision\"");
    CHECK_SAYS(parse(more), BundleError, "at variants.0.graphs.encoder: unknown key 'colour'");
    CHECK(parse(with(more, "\"1.0\"", "\"1.1\"")).variants.size() == 1);
}

TEST_CASE("values of the wrong kind are refused by their place") {
    const auto refused = [](const std::string& from, const std::string& to, const std::string& place) {
        INFO(from, " -> ", to);
        CHECK_SAYS(changed(from, to), BundleError, place);
    };
    refused("\"size\": 3", "\"size\": -3", "at files.graphs/encoder.onnx.size");
    refused("\"size\": 3", "\"size\": 3.5", "no whole number");
    refused("\"size\": 3", "\"size\": 18446744073709551615", "no whole number");
    refused(toy::kAbc, "ABC", "no SHA-256");
    refused("\"float32\"", "\"float31\"", "Did you mean float32?");
    refused("[1, 3, 2, 2]", "[1, 3, 2, -2]", "shape.3");
    refused("{\"portable\": \"graphs/encoder.onnx\"}", "{}", "forms");
    refused("\"encoder\": {\"forms\"", "\"coder\": {\"forms\"", "Did you mean encoder?");
    refused("\"image_span\": [1, 2]", "\"image_span\": [1, 5]", "does not fit");
    refused("\"image_span\": [1, 2]", "\"image_span\": [6, 2]", "does not fit");
    refused("\"image_span\": [1, 2]", "\"attention\": \"cross\", \"image_span\": [1, 2]", "cross-attention");
    refused("\"eos\": [2]", "\"eos\": [10]", "at variants.0.generation.eos.0: 10 is more than 9");
    refused("\"eos\": [2]", "\"eos\": []", "eos");
    refused("\"bos\": 1", "\"bos\": 10", "bos");
    refused("\"size\": [2, 2]", "\"size\": [1000000, 1000000]", "pixels");
    refused("\"size\": [2, 2]", "\"size\": [0, 2]", "size.0");
    refused("\"mean\": [0, 0, 0]", "\"mean\": [0, 0]", "three numbers");
    refused("\"nearest\"", "\"box\"", "resample");
    refused("\"tokexport\": \"0.1.0\", ", "", "field 'tokexport' is missing");
    refused("\"parity\": {}", "\"parity\": {}, \"processor\": {\"kind\": \"words\"}", "vocabulary");
    refused("\"files\": {\"graphs/encoder.onnx\"", "\"files\": {\"other.onnx\"", "does not list it");
}

TEST_CASE("text that is no manifest is refused") {
    for (const std::string text : {"", "{", "[]", "3", "null", "\"1.0\"", "{\"schema\": \"1.0\"}", "\xff\xfe"})
        CHECK_THROWS_AS(parse(text), BundleError);
    CHECK_THROWS_AS(parse(std::string(100000, '[')), BundleError);
}
