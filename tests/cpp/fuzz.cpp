// Every reader on changed inputs: `fuzz CASES SEED`. An input is read, or refused with an error of the library, within
// seconds; the sanitizers watch. Anything else ends the program with the number of the case.
#include <png.h>

#include <ctime>
#include <functional>
#include <iostream>
#include <random>

#include "read.h"
#include "tokexport/bundle.h"
#include "tokexport/errors.h"
#include "tokexport/media.h"
#include "tokexport/tokenizer.h"
#include "tokexport/words.h"
#include "toy.h"

using namespace tokexport;
using Random = std::mt19937_64;

namespace {

std::size_t below(Random& random, std::size_t count) { return count == 0 ? 0 : random() % count; }

// One to four changes: bits, spans that are cut or doubled, numbers and marks at the edges.
std::string changed(std::string text, Random& random) {
    static const std::vector<std::string> kMarks = {std::string(1, '\0'), "\xff",  "\x7f\xff\xff\xff", "-1", "1e999",
                                                    "18446744073709551616", "\"",  "null", "[", "{", "../", "\xed\xa0\x80",
                                                    "\\ud800"};
    const std::size_t times = 1 + below(random, 4);
    for (std::size_t time = 0; time < times; ++time) {
        const std::size_t at = below(random, text.size() + 1), span = std::min(text.size() - at, below(random, 65));
        const std::string& mark = kMarks[below(random, kMarks.size())];
        switch (below(random, 5)) {
            case 0:
                if (at < text.size()) text[at] = static_cast<char>(text[at] ^ (1 << below(random, 8)));
                break;
            case 1: text.erase(at, span); break;
            case 2: text.insert(at, text.substr(at, span)); break;
            case 3: text.insert(at, mark); break;
            default: text.replace(at, std::min(mark.size(), text.size() - at), mark);
        }
    }
    return text;
}

std::string graph() {
    const std::string entry = "\x0a\x08location\x12\x07weights", tensor = "\x6a" + std::string(1, char(entry.size())) + entry;
    const std::string graph = "\x2a" + std::string(1, char(tensor.size())) + tensor;
    return "\x3a" + std::string(1, char(graph.size())) + graph;
}

std::string png() {
    std::vector<std::uint8_t> pixels(16 * 12 * 4);
    for (std::size_t i = 0; i < pixels.size(); ++i) pixels[i] = static_cast<std::uint8_t>(i * 37);
    png_image image{};
    image.version = PNG_IMAGE_VERSION;
    image.width = 16, image.height = 12, image.format = PNG_FORMAT_RGBA;
    png_alloc_size_t size = 0;
    png_image_write_to_memory(&image, nullptr, &size, 0, pixels.data(), 0, nullptr);
    std::string text(size, '\0');
    png_image_write_to_memory(&image, text.data(), &size, 0, pixels.data(), 0, nullptr);
    return text;
}

std::string wav() {
    const std::string samples(2000, '\x11');
    const auto little = [](std::uint32_t value, int bytes) {
        std::string text;
        for (int i = 0; i < bytes; ++i) text += static_cast<char>(value >> (8 * i));
        return text;
    };
    const std::string format = "fmt " + little(16, 4) + little(1, 2) + little(1, 2) + little(16000, 4) +
                               little(32000, 4) + little(2, 2) + little(16, 2);
    return "RIFF" + little(36 + 2000, 4) + "WAVE" + format + "data" + little(2000, 4) + samples;
}

}  // namespace

int main(int argc, char** argv) {
    const std::size_t cases = argc > 1 ? std::stoul(argv[1]) : 10000, seed = argc > 2 ? std::stoul(argv[2]) : 0;
    const toy::Folder folder;
    toy::bundle(folder);
    const std::string words = R"({"words": ["<pad>", "<bos>", "<eos>", "what", "colour", "?"], "pad": 0, "bos": 1,
                                  "eos": [2], "spellings": {"color": "colour"}})";
    const std::string tokenizer = R"({"added_tokens": [{"id": 6, "content": "<s>", "special": true}],
      "decoder": {"type": "Sequence", "decoders": [
        {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "}, {"type": "ByteLevel"},
        {"type": "ByteFallback"}, {"type": "Metaspace", "replacement": "_"}, {"type": "Fuse"},
        {"type": "Strip", "content": " ", "start": 1, "stop": 2}]},
      "model": {"type": "BPE", "vocab": {"\u2581a": 0, "<0xE2>": 1, "<0x82>": 2, "_": 3, "Ġb": 4, " ": 5}}})";
    const std::string waveform = R"({"kind": "waveform", "sample_rate": 16000, "samples": 9, "normalize": true})";
    std::string spoken = toy::with(toy::kManifest, "\"eos\": [2]", R"("eos": [2], "suppress": [3], "begin_suppress": [],
      "speech": {"start": 1, "languages": {"en": 3}, "tasks": {"transcribe": 4}, "no_timestamps": 5, "timestamps": 6,
                 "timestamp_seconds": 0.02, "latest_start": 50})");
    spoken = toy::with(spoken, "\"graphs\": {\"encoder\"", "\"preprocess\": " + waveform + ", \"graphs\": {\"encoder\"");
    const std::string with_weights = graph(), picture = png(), sound = wav();
    const PreprocessRecord image_record = std::get<PreprocessRecord>(
        Manifest::parse(toy::kManifest, "manifest.json").preprocess);
    const std::vector<std::pair<std::string, std::function<void(Random&)>>> targets = {
        {"manifest", [&](Random& random) { Manifest::parse(changed(toy::kManifest, random), "manifest.json"); }},
        {"speech", [&](Random& random) { Manifest::parse(changed(spoken, random), "manifest.json"); }},
        {"bundle",
         [&](Random& random) {
             folder.write("manifest.json", changed(toy::kManifest, random));
             Bundle::open(folder.path).verify_hashes();
         }},
        {"graph",
         [&](Random& random) {
             const std::string text = changed(with_weights, random);
             folder.write("graphs/encoder.onnx", text);
             folder.write("manifest.json", toy::with(toy::kManifest, "\"size\": 3",
                                                     "\"size\": " + std::to_string(text.size())));
             Bundle::open(folder.path).graph_files("encoder", "portable");
         }},
        {"words",
         [&](Random& random) {
             const Words read = Words::load(folder.write("words.json", changed(words, random)));
             read.detokenize(read.prompt(changed("what colour ?", random)));
         }},
        {"tokenizer",
         [&](Random& random) {
             const Tokenizer read = Tokenizer::load(folder.write("tokenizer.json", changed(tokenizer, random)));
             Ids ids;
             for (int i = 0; i < 20; ++i) ids.push_back(static_cast<std::int64_t>(below(random, 12)));
             read.decode(ids);
         }},
        {"picture",
         [&](Random& random) {
             const Picture read = read_png(folder.write("a.png", changed(picture, random)).string());
             pixel_values(Image{read.rgba.data(), read.width, read.height, 4}, image_record);
         }},
        {"sound", [&](Random& random) { read_sound(folder.write("a.wav", changed(sound, random)).string()); }},
    };
    for (const auto& [name, read] : targets) {
        toy::bundle(folder);
        std::size_t refused = 0;
        for (std::size_t number = 0; number < cases; ++number) {
            Random random(seed + number);
            const std::clock_t begin = std::clock();
            try {
                read(random);
            } catch (const Error&) {
                ++refused;
            } catch (const std::exception& error) {
                std::cerr << name << ", seed " << seed + number << ": " << error.what() << "\n";
                return 1;
            }
            if (std::clock() - begin > 10 * CLOCKS_PER_SEC) {
                std::cerr << name << ", seed " << seed + number << ": computed for more than ten seconds\n";
                return 1;
            }
        }
        std::cout << name << ": " << cases << " cases, " << refused << " refused\n";
    }
}
