#include "tokexport/generate.h"

#include <algorithm>
#include <cmath>

#include "images.h"
#include "tokexport/errors.h"

namespace tokexport {
namespace {

std::string how_long(const Ids& prompt) { return "the prompt has " + std::to_string(prompt.size()) + " ids"; }

Tensor input_ids(const Ids& prompt, const GenerationRecord& record) {
    const Tensor ids = padded(prompt, record.prompt_length, record.pad, record.vocabulary);
    if (record.images == 1 && static_cast<std::int64_t>(prompt.size()) < record.offset)
        throw RequestError(how_long(prompt) + ", and " + std::to_string(record.offset) + " stand before the image", "",
                           "Begin the prompt with `bos` and what the model expects before the image.");
    return ids;
}

// An output of the contract.
const Tensor& output(const Tensors& tensors, const std::string& role, const std::string& name) {
    const auto found = tensors.find(name);
    if (found == tensors.end())
        throw GraphError("the graph of " + role + " has no output " + name, "", "Export the bundle again.");
    return found->second;
}

// One row, of as many numbers as a field of the generation record says.
const Tensor& row(const Tensors& encoded, const std::string& name, std::int64_t count, const std::string& field) {
    const Tensor& tensor = output(encoded, "encoder", name);
    if (tensor.shape() != std::vector<std::int64_t>{1, count})
        throw GraphError("the encoder's " + name + " are " + text_of(tensor.shape()) + ", and " + field + " " +
                             std::to_string(count),
                         "", "Export the bundle again.");
    return tensor;
}

const Tensor& slots(const Tensors& encoded, const std::string& name, std::int64_t kept) {
    return row(encoded, name, kept, "image_span keeps");
}

// kept_indices and sizes: the encoder's, or all tokens where it keeps them all.
void read_kept(const GenerationRecord& record, std::int64_t images, const Tensors& encoded, Answer& answer) {
    const std::int64_t kept = images * record.kept;
    if (!encoded.count("kept_indices") && !encoded.count("sizes") && record.kept == record.tokens_in) {
        for (std::int64_t i = 0; i < kept; ++i) answer.kept_indices.push_back(i % record.kept);
        answer.sizes.assign(static_cast<std::size_t>(kept), 1.0f);
        return;
    }
    const Tensor& indices = slots(encoded, "kept_indices", kept);
    answer.kept_indices.assign(indices.values<std::int64_t>(), indices.values<std::int64_t>() + indices.count());
    answer.sizes = slots(encoded, "sizes", kept).floats();
    for (std::size_t i = 0; i < answer.sizes.size(); ++i)
        if (!std::isfinite(answer.sizes[i]) || answer.sizes[i] <= 0)
            throw GraphError("sizes[" + std::to_string(i) + "] is " + std::to_string(answer.sizes[i]) +
                                 ", and every slot stands for more than 0 tokens",
                             "output sizes of encoder",
                             "The compressor is wrong on this input, or float16 overflowed: try --precision fp32.");
}

Tensor bias_of(const Variant& variant, const std::vector<float>& sizes) {
    // A compressor inside the decoder passes its sizes on inside the graph.
    const bool biased = std::any_of(variant.compression.begin(), variant.compression.end(), [](const auto& record) {
        return record.size_bias && record.seam.graph == "encoder";
    });
    std::vector<float> bias(sizes.size(), 0.0f);
    if (biased) std::transform(sizes.begin(), sizes.end(), bias.begin(), [](float size) { return std::log(size); });
    return Tensor::of({1, static_cast<std::int64_t>(sizes.size())}, bias);
}

std::int64_t most_likely(const Tensors& state, const std::string& role, const GenerationRecord& record,
                         const Ids& said, const Rules& rules) {
    const Tensor& scores = output(state, role, "logits");
    if (scores.count() != static_cast<std::size_t>(record.vocabulary))
        throw GraphError("the logits are " + text_of(scores.shape()) + ", and the vocabulary has " +
                             std::to_string(record.vocabulary) + " ids",
                         "output logits of " + role, "Export the bundle again.");
    std::vector<float> logits = scores.floats();
    const char* const cure =
        "float16 overflowed, most likely: export with --precision fp32, or see which sums `verify` names.";
    const auto missing = std::count_if(logits.begin(), logits.end(), [](float value) { return std::isnan(value); });
    if (missing > 0)
        throw GraphError(
            std::to_string(missing) + " of " + std::to_string(logits.size()) + " logits are NaN at token " +
                std::to_string(said.size()),
            "output logits of " + role, cure);
    rules.apply(logits, said);
    const auto best = std::max_element(logits.begin(), logits.end());
    if (!std::isfinite(*best))
        throw GraphError("the best of " + std::to_string(logits.size()) + " logits is " + std::to_string(*best) +
                             " at token " + std::to_string(said.size()) + ": none can be chosen",
                         "output logits of " + role, cure);
    return best - logits.begin();
}

bool begins(const std::string& text, const std::string& with) { return text.compare(0, with.size(), with) == 0; }

// Keys and values of what was read and said, and the states of layers that do not attend. `decode` returns only the keys
// and values of the new token, which are written into buffers that stay; under contract 1 it returns all of them. States
// it returns whole. What prefill says of compressors between layers, token_bias_<j>, decode reads at every step.
class Cache {
  public:
    // Takes the cache out of what prefill returned of a prompt with so many images.
    Cache(const Variant& variant, Tensors& state, std::int64_t images)
        : images_(images), most_(variant.generation->images) {
        const auto decode = variant.graphs.find("decode");
        if (decode != variant.graphs.end())
            for (const auto& output : decode->second.outputs) whole_ = whole_ && !begins(output.first, "new_");
        for (auto& [name, tensor] : state)
            if (begins(name, "cross_") || begins(name, "state_") || begins(name, "token_bias_"))
                kept_[name] = std::move(tensor);
        take_present(state);
        for (const auto& past : past_) longest_ = std::max(longest_, capacity_of(past.second));
    }

    Tensors inputs() {
        Tensors found = kept_;
        if (whole_)
            found.merge(past_);
        else
            found.insert(past_.begin(), past_.end());
        return found;
    }

    // Takes what decode returned for the token at `slot`.
    void update(Tensors& state, std::int64_t slot) {
        for (auto& [name, slice] : state) {
            if (!begins(name, "new_")) continue;
            if (begins(name, "new_state_")) {
                kept_[name.substr(4)] = std::move(slice);
                continue;
            }
            const auto past = past_.find("past_" + name.substr(4));
            if (past == past_.end())
                throw GraphError("decode returns " + name + ", and prefill has no such cache", "output of decode",
                                 "Export the bundle again.");
            // Behind a compressor between layers the sequence is shorter by the tokens that it removed of each image.
            const std::int64_t removed = (longest_ - capacity_of(past->second)) / most_;
            past->second.put(slice, slot - removed * images_);
        }
        take_present(state);
    }

  private:
    void take_present(Tensors& state) {
        for (auto& [name, tensor] : state)
            if (begins(name, "present_")) past_["past_" + name.substr(8)] = std::move(tensor);
    }

    static std::int64_t capacity_of(const Tensor& cache) {
        return cache.shape().size() > 2 ? cache.shape()[2] : 0;
    }

    Tensors past_, kept_;
    std::int64_t images_, most_, longest_ = 0;
    bool whole_ = true;  // decode returns all of the cache, and may have these buffers for its own
};

Tensors prefill(const Run& run, const GenerationRecord& record, const Tensors& encoded, const Tensor& ids,
                const Answer& answer, const Tensors& same, std::int64_t last) {
    const Tensor& tokens = output(encoded, "encoder", "tokens");
    Tensors inputs = same;
    inputs["last_index"] = Tensor::of<std::int64_t>({1}, {last});
    if (record.cross) {
        inputs["input_ids"] = ids;
        inputs["tokens"] = tokens;
    } else {
        Tensors read = {{"input_ids", ids}, {"tokens", widened(tokens, record)}};
        if (const auto starts = same.find("image_starts"); starts != same.end()) read.insert(*starts);
        inputs["inputs_embeds"] = output(run("embed", std::move(read)), "embed", "inputs_embeds");
        const auto kept = static_cast<std::int64_t>(answer.kept_indices.size());
        inputs["kept_indices"] = widened(Tensor::of({1, kept}, answer.kept_indices), record);
        if (record.by_position) inputs["assignment"] = row(encoded, "assignment", record.tokens_in, "tokens_in is");
    }
    return run("prefill", std::move(inputs));
}

}  // namespace

std::int64_t limit_of(const GenerationRecord& record, std::optional<std::int64_t> asked) {
    if (!asked) return record.max_new_tokens;
    if (*asked < 1 || *asked > record.max_new_tokens)
        throw RequestError(
            "max_new_tokens " + std::to_string(*asked) + " is outside 1.." + std::to_string(record.max_new_tokens), "",
            "The KV cache has a fixed size: ask for fewer tokens, or export with a larger --answer-length.");
    return *asked;
}

Tensor padded(const Ids& prompt, std::int64_t length, std::int64_t pad, std::int64_t vocabulary) {
    for (const std::int64_t id : prompt)
        if (id < 0 || id >= vocabulary)
            throw RequestError("prompt id " + std::to_string(id) + " is outside the vocabulary of " +
                               std::to_string(vocabulary));
    if (static_cast<std::int64_t>(prompt.size()) > length)
        throw RequestError(how_long(prompt) + ", and the graphs take at most " + std::to_string(length), "",
                           "Ask a shorter question, or export with a larger --prompt-length.");
    if (prompt.empty()) throw RequestError(how_long(prompt), "", "Begin it with `bos`.");
    Ids ids = prompt;
    ids.resize(static_cast<std::size_t>(length), pad);
    return Tensor::of({1, length}, ids);
}

Answer greedy(const Run& run, const Variant& variant, const Tensors& encoded, const Ids& prompt,
              std::optional<std::int64_t> max_new_tokens, const std::optional<Rules>& asked) {
    if (!variant.generation)
        throw RequestError("the bundle has no language graphs", "", "Built-in models have them: --parts all.");
    const GenerationRecord& record = *variant.generation;
    const Rules rules = asked ? *asked : Rules::of(record);
    const auto limit = static_cast<std::size_t>(limit_of(record, max_new_tokens));
    const std::int64_t images = record.images > 1 ? count_of(record, encoded) : 1;
    const Placed apart = record.images > 1 ? placed(prompt, record, images) : Placed{prompt, {}};
    const Tensor ids = input_ids(apart.words, record);
    Answer answer;
    read_kept(record, images, encoded, answer);
    const Tensor bias = bias_of(variant, answer.sizes);
    // What prefill and every step read.
    Tensors same = {{"token_bias", record.cross ? bias : widened(bias, record)}};
    if (!apart.starts.empty()) same["image_starts"] = Tensor::of({1, record.images}, apart.starts);
    const std::int64_t slots = record.cross ? 0 : images * record.kept;
    const std::int64_t last = static_cast<std::int64_t>(apart.words.size()) - 1 + slots;
    Tensors state = prefill(run, record, encoded, ids, answer, same, last);
    Cache cache(variant, state, images);
    for (std::size_t step = 0;; ++step) {
        const std::int64_t token = most_likely(state, step ? "decode" : "prefill", record, answer.ids, rules);
        answer.finished = std::find(record.eos.begin(), record.eos.end(), token) != record.eos.end();
        if (answer.finished) break;
        answer.ids.push_back(token);
        if (step + 1 == limit) break;
        const std::int64_t slot = last + 1 + static_cast<std::int64_t>(step);
        // A backend may reuse the buffers of what nobody holds any more.
        state.clear();
        Tensors inputs = cache.inputs();
        inputs["input_ids"] = Tensor::of<std::int64_t>({1, 1}, {token});
        inputs["write_index"] = Tensor::of<std::int64_t>({1}, {slot});
        inputs.insert(same.begin(), same.end());
        state = run("decode", std::move(inputs));
        cache.update(state, slot);
    }
    return answer;
}

}  // namespace tokexport
