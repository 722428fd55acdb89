// tokexport-run: `tokexport run` without Python.
#include <CLI/CLI.hpp>
#include <iostream>
#include <nlohmann/json.hpp>

#include "read.h"
#include "tokexport/errors.h"
#include "tokexport/onnxruntime.h"
#include "tokexport/session.h"
#ifdef TOKEXPORT_TENSORRT
#include "tokexport/tensorrt.h"
#endif

namespace {

struct Request {
    std::string bundle, image, audio, prompt, variant, runtime = "onnxruntime";
    std::int64_t max_new_tokens = 0;
    bool check = false, json = false;
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

tokexport::Answer answer(const Request& request, tokexport::Session& session) {
    std::optional<std::int64_t> limit;
    if (request.max_new_tokens != 0) limit = request.max_new_tokens;
    if (!request.image.empty()) {
        const Picture picture = read_png(request.image);
        return session.generate(tokexport::Image{picture.rgba.data(), picture.width, picture.height, 4}, request.prompt,
                                limit);
    }
    const Recording sound = read_sound(request.audio);
    return session.generate(tokexport::Sound{sound.samples.data(), sound.samples.size(), sound.sample_rate},
                            request.prompt, limit);
}

}  // namespace

int main(int argc, char** argv) {
    Request request;
    CLI::App app{"Answers a question about a picture, or transcribes a sound."};
    app.add_option("bundle", request.bundle, "folder of the bundle")->required();
    auto* media = app.add_option_group("medium")->require_option(1);
    media->add_option("--image", request.image, "a PNG file");
    media->add_option("--audio", request.audio, "a sound file at the sample rate of the bundle");
    app.add_option("--prompt", request.prompt, "the question; for a recogniser, how the transcript begins");
    app.add_option("--max-new-tokens", request.max_new_tokens, "at most this many (default: what the bundle allows)");
    app.add_option("--variant", request.variant, "variant of the bundle (default: the first)");
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
        if (request.json)
            std::cout << nlohmann::json{{"text", found.text},
                                        {"ids", found.ids},
                                        {"kept_indices", found.kept_indices},
                                        {"sizes", found.sizes}}
                      << "\n";
        else
            std::cout << found.text << "\n";
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
