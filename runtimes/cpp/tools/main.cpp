// tokexport-run: `tokexport run` without Python.
#include <CLI/CLI.hpp>
#include <cmath>
#include <cstdio>
#include <iostream>
#include <nlohmann/json.hpp>

#include "answer_json.h"
#include "read.h"
#include "tokexport/errors.h"
#include "tokexport/onnxruntime.h"
#include "tokexport/session.h"
#ifdef TOKEXPORT_TENSORRT
#include "tokexport/tensorrt.h"
#endif

namespace {

struct Request {
    std::vector<std::string> images;
    std::string bundle, audio, prompt, variant, runtime = "onnxruntime", language, task;
    tokexport::Ids prompt_ids;
    std::int64_t max_new_tokens = 0;
    bool check = false, json = false, timestamps = false;
};

std::unique_ptr<tokexport::Backend> backend(const Request& request) {
#ifdef TOKEXPORT_TENSORRT
    if (request.runtime == "tensorrt") return tokexport::tensorrt_backend();
#endif
#ifdef TOKEXPORT_ONNXRUNTIME
    if (request.runtime == "onnxruntime") return tokexport::onnxruntime_backend();
#endif
    throw tokexport::MissingError("this tokexport-run was built without " + request.runtime, "",
                                  "Configure it with -DTOKEXPORT_ONNXRUNTIME=ON or -DTOKEXPORT_TENSORRT=ON.");
}

tokexport::Session open(const Request& request) {
    auto bundle = tokexport::Bundle::open(request.bundle);
    if (request.check) bundle.verify_hashes();
    return {std::move(bundle), backend(request), request.variant};
}

tokexport::Answer ask(const Request& request, tokexport::Session& session, const std::vector<tokexport::Media>& media) {
    tokexport::GenerateOptions options;
    if (request.max_new_tokens != 0) options.max_new_tokens = request.max_new_tokens;
    options.language = request.language;
    options.task = request.task;
    options.timestamps = request.timestamps;
    options.listening = [](double seconds, double all) {
        std::cerr << "heard " << std::lround(seconds) << " of " << std::lround(all) << " s\n";
    };
    if (!request.prompt_ids.empty()) return session.generate(media, request.prompt_ids, options);
    if (media.size() > 1)
        throw tokexport::RequestError("several pictures are asked about by ids", "",
                                      "Give --prompt-ids, with the id of the place of each picture in them.");
    return session.generate(media[0], request.prompt, options);
}

tokexport::Answer answer(const Request& request, tokexport::Session& session) {
    if (!request.images.empty()) {
        std::vector<Picture> pictures;
        for (const std::string& path : request.images) pictures.push_back(read_png(path));
        std::vector<tokexport::Media> media;
        for (const Picture& one : pictures)
            media.push_back(tokexport::Image{one.rgba.data(), one.width, one.height, 4});
        return ask(request, session, media);
    }
    const Recording sound = read_sound(request.audio);
    return ask(request, session, {tokexport::Sound{sound.samples.data(), sound.samples.size(), sound.sample_rate}});
}

void print(const tokexport::Answer& found) {
    if (!found.segments) std::cout << found.text << "\n";
    for (const auto& [start, end, text] : found.segments.value_or(std::vector<tokexport::Segment>()))
        std::printf("[%.2f - %.2f] %s\n", start, end, text.c_str());
}

}  // namespace

int main(int argc, char** argv) {
    Request request;
    CLI::App app{"Answers a question about a picture, or transcribes a sound."};
    app.add_option("bundle", request.bundle, "folder of the bundle")->required();
    auto* media = app.add_option_group("medium")->require_option(1);
    media->add_option("--image", request.images, "a PNG file; again for each further picture of a prompt")
        ->allow_extra_args(false);
    media->add_option("--audio", request.audio, "a sound file at the sample rate of the bundle");
    app.add_option("--prompt", request.prompt, "the question; for a recogniser, how the transcript begins");
    app.add_option("--prompt-ids", request.prompt_ids, "the whole prompt as ids, where the bundle reads no words here")
        ->delimiter(',')
        ->excludes("--prompt");
    app.add_option("--language", request.language, "of the speech, such as en (default: the one that is heard)");
    app.add_option("--task", request.task, "transcribe, or translate to English, where the model has both");
    app.add_flag("--timestamps", request.timestamps, "a line for each segment of the speech, with its times in seconds");
    app.add_option("--max-new-tokens", request.max_new_tokens, "at most this many (default: what the bundle allows)");
    app.add_option("--variant", request.variant, "variant of the bundle (default: the first, or the window that fits a sound)");
    app.add_option("--runtime", request.runtime, "what runs the graphs")
        ->check(CLI::IsMember({"onnxruntime", "tensorrt"}))
        ->capture_default_str();
    app.add_flag("--check", request.check, "read every file and compare its SHA-256 first");
    app.add_flag("--json", request.json, "print the answer, its ids, the kept tokens and their sizes as JSON");
    try {
        app.parse(argc, argv);
    } catch (const CLI::ParseError& error) {
        return app.exit(error) == 0 ? 0 : 2;
    }
    try {
        tokexport::Session session = open(request);
        const auto found = answer(request, session);
        for (const std::string& note : session.notes()) std::cerr << "note: " << note << "\n";
        for (const std::string& note : found.notes) std::cerr << "note: " << note << "\n";
        if (request.json)
            std::cout << json_of(found) << "\n";
        else
            print(found);
    } catch (const tokexport::Error& error) {
        std::cerr << "error: " << error.what() << "\n";
        return error.exit_code();
    } catch (const std::bad_alloc&) {
        std::cerr << "error: there is not enough memory for this bundle and input\n";
        return 3;
    } catch (const std::exception& error) {
        std::cerr << "error: " << error.what() << "\n";
        return 2;
    }
}
