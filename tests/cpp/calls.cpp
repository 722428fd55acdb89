// Answers test_cpp_runtime.py: one JSON object a line in, one out. Arrays travel as files of raw values.
#include <cmath>
#include <fstream>
#include <iostream>
#include <iterator>
#include <nlohmann/json.hpp>

#include "answer_json.h"
#include "tokexport/errors.h"
#include "tokexport/onnxruntime.h"
#include "tokexport/session.h"
#include "tokexport/tokenizer.h"

using namespace tokexport;
using Json = nlohmann::json;

namespace {

template <class T>
std::vector<T> read(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    const std::string bytes{std::istreambuf_iterator<char>(file), {}};
    std::vector<T> values(bytes.size() / sizeof(T));
    std::copy(bytes.begin(), bytes.end(), reinterpret_cast<char*>(values.data()));
    return values;
}

Json write(const Json& call, const Tensors& tensors) {
    Json found;
    for (const auto& [name, tensor] : tensors) {
        const std::string path = call.at("out").get<std::string>() + name;
        std::ofstream(path, std::ios::binary).write(static_cast<const char*>(tensor.host()), tensor.bytes());
        found[name] = {{"path", path}, {"dtype", name_of(tensor.dtype())}, {"shape", tensor.shape()}};
    }
    return found;
}

// The medium of a call, and the memory it points at.
struct Held {
    std::vector<std::uint8_t> pixels;
    std::vector<float> samples;
    Media media;

    explicit Held(const Json& call) {
        if (call.contains("pixels")) {
            pixels = read<std::uint8_t>(call["pixels"]);
            media = Image{pixels.data(), call["width"], call["height"], call["channels"]};
        } else {
            samples = read<float>(call.at("samples"));
            media = Sound{samples.data(), samples.size(), call["rate"]};
        }
    }
};

Session open(const Json& call) {
    Bundle bundle = Bundle::open(call.at("bundle").get<std::string>());
    if (call.value("check", false)) bundle.verify_hashes();
    OnnxRuntimeOptions options;
    options.threads = 1;
    options.form = call.value("form", options.form);
    options.providers = call.value("providers", options.providers);
    return Session(std::move(bundle), onnxruntime_backend(options), call.value("variant", ""));
}

// A call that says `keep` finds the session of the last that did, if it was of the same bundle.
Session& session(const Json& call) {
    static std::optional<Session> kept, once;
    static std::string bundle;
    if (!call.value("keep", false)) return once.emplace(open(call));
    if (!kept || bundle != call.at("bundle")) kept.emplace(open(call));
    bundle = call.at("bundle");
    return *kept;
}

// The ids that may follow, by scores whose missing ones are -inf.
Json allowed(const Json& call) {
    Rules rules{call.value("suppress", Ids()), call.value("begin_suppress", Ids()), {}, call.value("only", Ids())};
    if (call.contains("first")) {
        rules.times = TimeRules{call["first"], call["no_timestamps"], call["eos"], {}};
        if (call.contains("latest_start")) rules.times->latest_start = call["latest_start"].get<std::int64_t>();
    }
    std::vector<float> scores;
    for (const Json& score : call.at("scores")) scores.push_back(score.is_null() ? -INFINITY : score.get<float>());
    rules.apply(scores, call.at("said").get<Ids>());
    Json ids = Json::array();
    for (std::size_t id = 0; id < scores.size(); ++id)
        if (std::isfinite(scores[id])) ids.push_back(id);
    return ids;
}

Json answer(const Json& call) {
    const std::string what = call.at("do");
    if (what == "preprocess") {
        const Held held(call);
        const Manifest manifest = Manifest::parse(call.at("manifest"), "manifest.json");
        return write(call, {{"found", encoder_input(held.media, manifest.preprocess)}});
    }
    if (what == "decode") {
        static std::map<std::string, Tokenizer> read;
        const std::string path = call.at("tokenizer");
        if (!read.count(path)) read.emplace(path, Tokenizer::load(path));
        return read.at(path).decode(call.at("ids").get<Ids>());
    }
    if (what == "choose") return allowed(call);
    if (what == "tokenize") return Words::load(call.at("vocabulary").get<std::string>()).tokenize(call.at("text"));
    if (what == "open") return session(call).bundle().manifest().files.size();
    GenerateOptions options;
    if (call.contains("max_new_tokens")) options.max_new_tokens = call["max_new_tokens"].get<std::int64_t>();
    options.language = call.value("language", "");
    options.task = call.value("task", "");
    options.timestamps = call.value("timestamps", false);
    if (call.contains("several")) {
        std::vector<Held> held;
        held.reserve(call["several"].size());
        std::vector<Media> media;
        for (const Json& one : call["several"]) held.emplace_back(one);
        for (const Held& one : held) media.push_back(one.media);
        return json_of(session(call).generate(media, call.at("prompt_ids").get<Ids>(), options));
    }
    const Held held(call);
    if (what == "encode" && call.contains("prompt"))
        return write(call, session(call).encode(held.media, call["prompt"].get<std::string>()));
    if (what == "encode") return write(call, session(call).encode(held.media));
    if (call.contains("prompt_ids"))
        return json_of(session(call).generate(held.media, call["prompt_ids"].get<Ids>(), options));
    return json_of(session(call).generate(held.media, call.value("prompt", ""), options));
}

template <class Kind>
bool is(const Error& error) {
    return dynamic_cast<const Kind*>(&error) != nullptr;
}

}  // namespace

int main() {
    for (std::string line; std::getline(std::cin, line);) {
        Json out;
        try {
            out["result"] = answer(Json::parse(line));
        } catch (const Error& error) {
            out["error"] = is<BundleError>(error)    ? "BundleError"
                           : is<RequestError>(error) ? "RequestError"
                           : is<MissingError>(error) ? "MissingError"
                                                     : "GraphError";
            out["message"] = error.what();
        }
        std::cout << out.dump(-1, ' ', false, Json::error_handler_t::replace) << std::endl;
    }
}
