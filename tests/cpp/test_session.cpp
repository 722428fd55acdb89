// What a session checks before and after a graph runs, with graphs that give what the test wants.
#include "says.h"
#include "tokexport/errors.h"
#include "tokexport/session.h"
#include "toy.h"

using namespace tokexport;

namespace {

class Fixed : public Backend, public Graph {
  public:
    // `given` receives what graphs are run with, as ROLE.NAME.
    explicit Fixed(Tensors outputs, Tensors* given = nullptr, std::string role = "")
        : outputs_(std::move(outputs)), given_(given), role_(std::move(role)) {}
    std::unique_ptr<Graph> load(const Bundle&, const Variant&, const std::string& role) override {
        return std::make_unique<Fixed>(outputs_, given_, role);
    }
    Tensors run(Tensors inputs) override {
        if (!inputs.count("image")) throw std::logic_error("names are those of the graph");
        if (given_ != nullptr)
            for (const auto& [name, tensor] : inputs) (*given_)[role_ + "." + name] = tensor;
        return outputs_;
    }

  private:
    Tensors outputs_;
    Tensors* given_;
    std::string role_;
};

const Tensor kPixels = Tensor::of<float>({1, 3, 2, 2}, std::vector<float>(12));

}  // namespace

TEST_CASE("inputs and outputs are what the manifest says") {
    toy::Folder folder;
    const Bundle bundle = Bundle::open(toy::bundle(folder));
    const auto session = [&](Tensors outputs) { return Session(bundle, std::make_unique<Fixed>(std::move(outputs))); };
    const Tensors right = {{"out", Tensor::of<float>({1, 2, 1}, {3, 4})}};
    CHECK(session(right).run("encoder", {{"pixel_values", kPixels}})["tokens"].floats() == std::vector<float>{3, 4});
    CHECK_SAYS(session(right).run("encoder", {}), RequestError,
               "needs input 'pixel_values'. Pass float32 [1, 3, 2, 2]");
    CHECK_SAYS(session(right).run("encoder", {{"pixels", kPixels}}), RequestError, "no input 'pixels'");
    CHECK_SAYS(session(right).run("encoder", {{"pixel_values", Tensor::of<float>({3, 4}, std::vector<float>(12))}}),
               RequestError, "is float32 [3, 4] (tensor image). Expected float32 [1, 3, 2, 2]");
    CHECK_SAYS(
        session(right).run("encoder", {{"pixel_values", Tensor::of<std::int32_t>({1, 3, 2, 2}, std::vector<int>(12))}}),
        RequestError, "is int32");
    CHECK_SAYS(session(right).run("encoder", {{"pixel_values", Tensor(DType::float32, {1, 3, 2, 2}, nullptr)}}),
               RequestError, "input 'pixel_values'");
    CHECK_SAYS(session(right).run("prefill", {}), RequestError, "no graph 'prefill'");
    CHECK_SAYS(session({}).run("encoder", {{"pixel_values", kPixels}}), GraphError, "is missing");
    CHECK_SAYS(session({{"out", kPixels}}).run("encoder", {{"pixel_values", kPixels}}), GraphError,
               "is float32 [1, 3, 2, 2], and the manifest says float32 [1, 2, 1]");
    CHECK_SAYS(Session(bundle, nullptr), RequestError, "needs a backend");
    CHECK_SAYS(Session(bundle, std::make_unique<Fixed>(right), "toy"), RequestError, "no variant 'toy'");
}

TEST_CASE("an image is made what the encoder takes, or refused before it is made") {
    toy::Folder folder;
    const std::uint8_t pixels[12] = {};
    const Tensors right = {{"out", Tensor::of<float>({1, 2, 1}, {3, 4})}};
    Session session(Bundle::open(toy::bundle(folder)), std::make_unique<Fixed>(right));
    CHECK(session.encode(Image{pixels, 2, 2}).count("tokens") == 1);
    CHECK_SAYS(session.generate(Image{pixels, 2, 2}, "what"), RequestError, "no text processor");
    CHECK_SAYS(session.generate(Image{pixels, 2, 2}, Ids{1}), GraphError, "no output kept_indices");
    toy::bundle(folder, toy::with(toy::kManifest, "\"size\": [2, 2]", "\"size\": [2, 16384]"));
    Session other(Bundle::open(folder.path), std::make_unique<Fixed>(right));
    CHECK_SAYS(other.encode(Image{pixels, 2, 2}), BundleError, "preprocess makes [1, 3, 2, 16384]");
}

TEST_CASE("an encoder that reads a text is asked, and no other") {
    toy::Folder folder;
    folder.write("graphs/text.onnx", "abc");
    const std::string file = R"({"graphs/text.onnx": {"size": 3, "sha256": ")" + toy::kAbc + "\"}, ";
    std::string text = toy::with(toy::kManifest, "\"files\": {", "\"files\": " + file);
    text = toy::with(text, "\"graphs\": {",
                     R"("graphs": {"text": {"forms": {"portable": "graphs/text.onnx"}, "precision": "fp32",
                     "inputs": {"input_ids": {"name": "image", "dtype": "int64", "shape": [1, 4]}},
                     "outputs": {"text": {"name": "words", "dtype": "float32", "shape": [1, 4, 1]}}}, )");
    text = toy::with(text, "[1, 3, 2, 2]}}", R"([1, 3, 2, 2]}, "text": {"name": "read", "dtype": "float32",
                     "shape": [1, 4, 1]}})");
    const std::string record = R"("text": {"vocabulary": 10, "pad": 3, "blank": [3, 1]}, "generation")";
    const std::string whole = toy::with(text, "\"generation\"", record);
    const Tensors outputs = {{"out", Tensor::of<float>({1, 2, 1}, {3, 4})},
                             {"words", Tensor::of<float>({1, 4, 1}, {0, 7, 8, 0})}};
    Tensors given;
    Session session(Bundle::open(toy::bundle(folder, whole)), std::make_unique<Fixed>(outputs, &given));
    const std::uint8_t pixels[12] = {};
    const Image image{pixels, 2, 2};
    CHECK(session.reads_text());
    CHECK(session.encode(image, Ids{1, 5, 6}).at("tokens").floats() == std::vector<float>{3, 4});
    const std::int64_t* ids = given.at("text.image").values<std::int64_t>();
    CHECK(Ids(ids, ids + 4) == Ids{1, 5, 6, 3});
    CHECK(given.at("encoder.read").floats() == std::vector<float>{0, 7, 8, 0});
    CHECK_SAYS(session.encode(image), RequestError, "follows from the question, and none is given");
    CHECK_SAYS(session.encode(image, Ids(5, 1)), RequestError, "5 ids, and the graphs take at most 4");
    CHECK_SAYS(session.encode(image, Ids{10}), RequestError, "outside the vocabulary of 10");
    CHECK_SAYS(session.encode(image, "what"), RequestError, "no text processor");
    CHECK_SAYS(session.generate(image, Ids{1, 5}), GraphError, "no output kept_indices");
    const std::vector<std::pair<std::string, std::string>> wrong = {{record, "\"generation\""},
                                                      {"\"pad\": 3", "\"pad\": 4"},
                                                      {"\"pad\": 3", "\"pad\": 10"},
                                                      {"[3, 1]", "[3, 10]"}};
    for (const auto& [from, to] : wrong)
        CHECK_SAYS(Bundle::open(toy::bundle(folder, toy::with(whole, from, to))), BundleError, "at variants.0");
    toy::Folder other;
    Session plain(Bundle::open(toy::bundle(other)), std::make_unique<Fixed>(outputs));
    CHECK(!plain.reads_text());
    CHECK_SAYS(plain.encode(image, Ids{1}), RequestError, "follows from no question");
}

TEST_CASE("the vocabulary is that of the graphs") {
    toy::Folder folder;
    const std::string words = R"({"words": ["a", "b", "c"], "pad": 1, "bos": 0, "eos": 2})";
    folder.write("words.json", words);
    std::string text = toy::with(toy::kManifest, "\"files\": {",
                                 "\"files\": {\"words.json\": {\"size\": " + std::to_string(words.size()) +
                                     ", \"sha256\": \"" + toy::kAbc + "\"}, ");
    text = toy::with(text, "\"parity\"",
                     "\"processor\": {\"kind\": \"words\", \"vocabulary\": \"words.json\"}, \"parity\"");
    Session session(Bundle::open(toy::bundle(folder, text)), std::make_unique<Fixed>(Tensors{}));
    CHECK_SAYS(session.words(), BundleError, "bos, pad and eos of words.json are not those");
}
