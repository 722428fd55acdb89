#include "images.h"

#include <algorithm>
#include <cstring>

#include "tokexport/errors.h"

namespace tokexport {
namespace {

// [1, n, ...] one behind the other.
Tensor behind_each_other(const std::vector<Tensor>& parts) {
    std::vector<std::int64_t> shape = parts.at(0).shape();
    shape.at(1) = 0;
    std::vector<char> values;
    for (const Tensor& part : parts) {
        const auto* bytes = static_cast<const char*>(part.host());
        values.insert(values.end(), bytes, bytes + part.bytes());
        shape[1] += part.shape().at(1);
    }
    return Tensor::copy(parts[0].dtype(), shape, values.data(), values.size());
}

}  // namespace

Placed placed(const Ids& prompt, const GenerationRecord& record, std::int64_t count) {
    check_count(record, count);
    Placed found;
    for (const std::int64_t id : prompt) {
        if (id != record.placeholder) {
            found.words.push_back(id);
            continue;
        }
        const auto before = static_cast<std::int64_t>(found.starts.size());
        found.starts.push_back(static_cast<std::int64_t>(found.words.size()) + before * record.kept);
    }
    if (static_cast<std::int64_t>(found.starts.size()) != count) {
        const std::string id = std::to_string(record.placeholder);
        throw RequestError("the prompt has " + std::to_string(found.starts.size()) + " places of images (id " + id +
                               "), and the images are " + std::to_string(count),
                           "", "Put the id " + id + " into it once for each image, where it stands.");
    }
    const std::int64_t end = record.prompt_length + record.images * record.kept + record.max_new_tokens;
    found.starts.resize(static_cast<std::size_t>(record.images), end);
    return found;
}

void check_count(const GenerationRecord& record, std::int64_t count) {
    const std::string given = std::to_string(count);
    if (count < 1) throw RequestError("no picture or sound is given", "", "Give one.");
    if (count > 1 && record.images == 1)
        throw RequestError(given + " inputs are given, and the bundle takes one in a prompt", "",
                           "Ask about each. Or export the model with --images " + given +
                               ", if it is a vision-language checkpoint.");
    if (count > record.images)
        throw RequestError(given + " images are given, and the bundle takes at most " + std::to_string(record.images) +
                               " in a prompt",
                           "", "Export it with --images " + given + ", or give fewer.");
}

std::vector<Media> of_frames(const std::vector<Media>& media, const Preprocess& preprocess, const TensorRecord& input) {
    const auto* record = std::get_if<VideoRecord>(&preprocess);
    const auto pictures = std::count_if(media.begin(), media.end(),
                                        [](const Media& one) { return std::holds_alternative<Image>(one); });
    if (record == nullptr || pictures == 0) return media;
    const std::string frames = std::to_string(record->frames);
    if (pictures != record->frames || media.size() != static_cast<std::size_t>(pictures))
        throw RequestError(std::to_string(media.size()) + " inputs are given, and the bundle reads " + frames +
                               " frames of a video",
                           "", "Give " + frames + " pictures, its frames in their order.");
    const std::vector<std::int64_t>& shape = input.shape;
    const std::vector<std::int64_t> frame = {3, record->frame.height, record->frame.width};
    const std::int64_t at_once = shape.size() == 5 ? shape[1] : shape.size() == 4 ? 1 : 0;
    if (at_once < 1 || record->frames % at_once != 0 || !std::equal(frame.begin(), frame.end(), shape.end() - 3))
        throw BundleError("the encoder takes " + text_of(shape) + ", and the bundle reads " + frames + " frames of " +
                              text_of(frame),
                          "manifest.json", "Export the bundle again.");
    std::vector<Media> found;
    std::vector<float> values;
    for (const Media& one : media) {
        const Tensor pixels = pixel_values(std::get<Image>(one), record->frame);
        values.insert(values.end(), pixels.values<float>(), pixels.values<float>() + pixels.count());
        if (values.size() < count_of(shape)) continue;
        found.push_back(Tensor::of<float>(shape, values));
        values.clear();
    }
    return found;
}

Tensors joined(const std::vector<Tensors>& encoded) {
    Tensors found;
    for (const char* name : {"tokens", "kept_indices", "sizes"}) {
        std::vector<Tensor> parts;
        for (const Tensors& one : encoded)
            if (const auto part = one.find(name); part != one.end()) parts.push_back(part->second);
        if (parts.size() == encoded.size()) found[name] = behind_each_other(parts);
    }
    return found;
}

std::int64_t count_of(const GenerationRecord& record, const Tensors& encoded) {
    const auto tokens = encoded.find("tokens");
    if (tokens == encoded.end() || tokens->second.shape().size() != 3)
        throw GraphError("the graph of encoder has no output tokens [1, K, D]", "", "Export the bundle again.");
    return tokens->second.shape()[1] / record.kept;
}

Tensor widened(const Tensor& tensor, const GenerationRecord& record) {
    std::vector<std::int64_t> shape = tensor.shape();
    const std::int64_t all = record.images * record.kept;
    if (shape.size() < 2 || shape[1] >= all) return tensor;
    shape[1] = all - shape[1];
    const std::vector<char> zeros(count_of(shape) * bytes_of(tensor.dtype()), 0);
    return behind_each_other({tensor, Tensor::copy(tensor.dtype(), shape, zeros.data(), zeros.size())});
}

}  // namespace tokexport
