// The contract of runtimes/bundle/manifest.py, against graphs that only write down what they were given.
#include <cmath>

#include "says.h"
#include "tokexport/errors.h"
#include "tokexport/generate.h"

using namespace tokexport;

namespace {

constexpr int kVocabulary = 6, kEos = 2;

struct Call {
    std::string role;
    Tensors inputs;
};

// Answers with `ids` one after the other, and gives a cache that says how often it was written.
struct Scripted {
    std::vector<int> ids;
    bool cross = false;
    bool hybrid = false;
    std::vector<Call> calls = {};

    Tensors operator()(const std::string& role, Tensors inputs) {
        calls.push_back({role, std::move(inputs)});
        if (role == "embed") return {{"inputs_embeds", Tensor::of<float>({1}, {42})}};
        std::vector<float> logits(kVocabulary, 0.0f);
        logits[static_cast<std::size_t>(ids.at(written))] = 1;
        Tensors outputs = {{"logits", Tensor::of({1, kVocabulary}, logits)},
                           {"present_key_0", Tensor::of<float>({1}, {static_cast<float>(++written)})}};
        if (cross && role == "prefill") outputs["cross_key_0"] = Tensor::of<float>({1}, {7});
        const std::string state = role == "prefill" ? "state_conv_1" : "new_state_conv_1";
        if (hybrid) outputs[state] = Tensor::of<float>({1}, {10 * static_cast<float>(written)});
        return outputs;
    }

    std::size_t written = 0;
};

Variant variant(bool cross = false) {
    Variant made;
    made.name = "toy";
    made.compression = {{"toy", "0.5", 4, 2, true, {"encoder_output", "encoder", "t"}}};
    made.generation = GenerationRecord{cross, cross ? 0 : 1, 2, 4, 5, 3, kVocabulary, 1, 0, {kEos}};
    return made;
}

Tensors encoded() {
    return {{"tokens", Tensor::of<float>({1, 2, 1}, {5, 6})},
            {"kept_indices", Tensor::of<std::int64_t>({1, 2}, {1, 3})},
            {"sizes", Tensor::of<float>({1, 2}, {3, 1})}};
}

std::int64_t integer(const Call& call, const std::string& name) { return *call.inputs.at(name).values<std::int64_t>(); }
float number(const Call& call, const std::string& name) { return *call.inputs.at(name).values<float>(); }

}  // namespace

TEST_CASE("by position prefill is told which slot each token went into, and decode is not") {
    Scripted graphs{{3, kEos}};
    Variant made = variant();
    made.generation->by_position = true;
    CHECK_SAYS(greedy(std::ref(graphs), made, encoded(), {1, 5, 5}), GraphError, "no output assignment");
    graphs.calls.clear();
    Tensors given = encoded();
    given["assignment"] = Tensor::of<std::int64_t>({1, 4}, {0, 0, -1, 1});
    greedy(std::ref(graphs), made, given, {1, 5, 5});
    REQUIRE(graphs.calls.size() == 3);
    const Tensor& told = graphs.calls[1].inputs.at("assignment");
    CHECK(Ids(told.values<std::int64_t>(), told.values<std::int64_t>() + 4) == Ids{0, 0, -1, 1});
    CHECK(graphs.calls[2].inputs.count("assignment") == 0);
    CHECK(number(graphs.calls[2], "token_bias") == doctest::Approx(std::log(3)));
    given["assignment"] = Tensor::of<std::int64_t>({1, 2}, {0, 1});
    CHECK_SAYS(greedy(std::ref(graphs), made, given, {1, 5, 5}), GraphError, "and tokens_in is 4");
}

TEST_CASE("a state is replaced at every step") {
    Scripted graphs{{3, 4, 5, kEos}, false, true};
    greedy(std::ref(graphs), variant(), encoded(), {1, 5, 5});
    REQUIRE(graphs.calls.size() == 4);
    CHECK(number(graphs.calls[2], "state_conv_1") == 10);
    CHECK(number(graphs.calls[3], "state_conv_1") == 20);
}

TEST_CASE("layers that see fewer tokens have shorter caches, and are told of what is left") {
    std::vector<Tensors> calls;
    const Run run = [&](const std::string& role, Tensors inputs) -> Tensors {
        Tensors outputs = {{"inputs_embeds", Tensor::of<float>({1}, {42})},
                           {"logits", Tensor::of<float>({1, kVocabulary}, {0, 0, 0, 1, 0, 0})}};
        if (role == "prefill") {
            outputs["present_key_0"] = Tensor::of<float>({1, 1, 9, 1}, std::vector<float>(9, 0.0f));
            outputs["present_key_1"] = Tensor::of<float>({1, 1, 8, 1}, std::vector<float>(8, 0.0f));
            outputs["token_bias_1"] = Tensor::of<float>({1, 1}, {5});
        } else if (role == "decode") {
            for (const char* name : {"new_key_0", "new_key_1"}) outputs[name] = Tensor::of<float>({1, 1, 1, 1}, {7});
            calls.push_back(std::move(inputs));
        }
        return outputs;
    };
    Variant made = variant();
    made.graphs["decode"].outputs["new_key_0"] = {};
    greedy(run, made, encoded(), {1, 5, 5});
    REQUIRE(calls.size() == 2);
    CHECK(calls[1].at("token_bias_1").floats() == std::vector<float>{5});
    CHECK(calls[1].at("past_key_0").floats() == std::vector<float>{0, 0, 0, 0, 0, 7, 0, 0, 0});
    CHECK(calls[1].at("past_key_1").floats() == std::vector<float>{0, 0, 0, 0, 7, 0, 0, 0});
}

TEST_CASE("of several images the later layers saw as many tokens fewer as those in the prompt had") {
    std::vector<Tensors> calls;
    const Run run = [&](const std::string& role, Tensors inputs) -> Tensors {
        Tensors outputs = {{"inputs_embeds", Tensor::of<float>({1}, {42})},
                           {"logits", Tensor::of<float>({1, kVocabulary}, {0, 0, 0, 1, 0, 0})}};
        if (role == "prefill") {
            // Three images of two tokens, and of one behind the compressor.
            outputs["present_key_0"] = Tensor::of<float>({1, 1, 12, 1}, std::vector<float>(12, 0.0f));
            outputs["present_key_1"] = Tensor::of<float>({1, 1, 9, 1}, std::vector<float>(9, 0.0f));
        } else if (role == "decode") {
            for (const char* name : {"new_key_0", "new_key_1"}) outputs[name] = Tensor::of<float>({1, 1, 1, 1}, {7});
            calls.push_back(std::move(inputs));
        }
        return outputs;
    };
    Variant several = variant();
    several.generation->images = 3;
    several.generation->placeholder = 4;
    several.graphs["decode"].outputs["new_key_0"] = {};
    const Tensors two = {{"tokens", Tensor::of<float>({1, 4, 1}, {5, 6, 7, 8})},
                         {"kept_indices", Tensor::of<std::int64_t>({1, 4}, {1, 3, 0, 2})},
                         {"sizes", Tensor::of<float>({1, 4}, {1, 1, 1, 1})}};
    greedy(run, several, two, {4, 4, 5});
    REQUIRE(calls.size() == 2);
    CHECK(calls[1].at("past_key_0").floats() == std::vector<float>{0, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0});
    CHECK(calls[1].at("past_key_1").floats() == std::vector<float>{0, 0, 0, 7, 0, 0, 0, 0, 0});
}

TEST_CASE("several images: every graph is told where they begin, and one that is not there is zeros") {
    Scripted graphs{{3, kEos}};
    Variant several = variant();
    several.generation->images = 3;
    several.generation->placeholder = 4;
    const Tensors two = {{"tokens", Tensor::of<float>({1, 4, 1}, {5, 6, 7, 8})},
                         {"kept_indices", Tensor::of<std::int64_t>({1, 4}, {1, 3, 0, 2})},
                         {"sizes", Tensor::of<float>({1, 4}, {3, 1, 1, 3})}};
    const Answer answer = greedy(std::ref(graphs), several, two, {1, 4, 5, 4, 5});
    CHECK(answer.kept_indices == std::vector<std::int64_t>{1, 3, 0, 2});
    REQUIRE(graphs.calls.size() == 3);
    const Call &embed = graphs.calls[0], &prefill = graphs.calls[1], &decode = graphs.calls[2];
    const auto integers = [](const Call& call, const std::string& name) {
        const Tensor& tensor = call.inputs.at(name);
        return Ids(tensor.values<std::int64_t>(), tensor.values<std::int64_t>() + tensor.count());
    };
    CHECK(integers(embed, "input_ids") == Ids{1, 5, 5, 0, 0});
    CHECK(embed.inputs.at("tokens").floats() == std::vector<float>{5, 6, 7, 8, 0, 0});
    CHECK(integers(prefill, "kept_indices") == Ids{1, 3, 0, 2, 0, 0});
    CHECK(integer(prefill, "last_index") == 2 + 4);
    CHECK(integer(decode, "write_index") == 3 + 4);
    for (const Call* call : {&embed, &prefill, &decode}) CHECK(integers(*call, "image_starts") == Ids{1, 4, 14});
    for (const Call* call : {&prefill, &decode}) {
        const std::vector<float> bias = call->inputs.at("token_bias").floats();
        CHECK(bias[0] == doctest::Approx(std::log(3)));
        CHECK(bias[3] == doctest::Approx(std::log(3)));
        CHECK(bias.size() == 6);
        CHECK(bias[5] == 0);
    }
    CHECK_SAYS(greedy(std::ref(graphs), several, two, {1, 4, 5}), RequestError, "has 1 places of images (id 4)");
    several.generation->images = 1;
    CHECK_SAYS(greedy(std::ref(graphs), several, two, {1, 5}), GraphError, "image_span keeps 2");
}

TEST_CASE("self-attention: embed, prefill, decode") {
    Scripted graphs{{3, 4, kEos}};
    const Answer answer = greedy(std::ref(graphs), variant(), encoded(), {1, 5, 5});
    CHECK(answer.ids == Ids{3, 4});
    CHECK(answer.kept_indices == std::vector<std::int64_t>{1, 3});
    CHECK(answer.sizes == std::vector<float>{3, 1});
    REQUIRE(graphs.calls.size() == 4);
    const Call &embed = graphs.calls[0], &prefill = graphs.calls[1], &first = graphs.calls[2],
               &second = graphs.calls[3];
    CHECK(embed.role == "embed");
    const auto* ids = embed.inputs.at("input_ids").values<std::int64_t>();
    CHECK(Ids(ids, ids + 5) == Ids{1, 5, 5, 0, 0});
    CHECK(keys(prefill.inputs) ==
          std::vector<std::string>{"inputs_embeds", "kept_indices", "last_index", "token_bias"});
    CHECK(integer(prefill, "last_index") == 2 + 2);
    CHECK(number(prefill, "token_bias") == std::log(3.0f));
    CHECK(prefill.inputs.at("token_bias").values<float>()[1] == 0);
    CHECK(keys(first.inputs) == std::vector<std::string>{"input_ids", "past_key_0", "token_bias", "write_index"});
    CHECK(integer(first, "input_ids") == 3);
    CHECK(integer(first, "write_index") == 5);
    CHECK(number(first, "past_key_0") == 1);
    CHECK(integer(second, "write_index") == 6);
    CHECK(number(second, "past_key_0") == 2);
}

TEST_CASE("cross-attention: no embed, and a cache that never changes") {
    Scripted graphs{{3, 4, 5}, true};
    CHECK(greedy(std::ref(graphs), variant(true), encoded(), {1}).ids == Ids{3, 4, 5});
    REQUIRE(graphs.calls.size() == 3);
    CHECK(keys(graphs.calls[0].inputs) == std::vector<std::string>{"input_ids", "last_index", "token_bias", "tokens"});
    CHECK(integer(graphs.calls[0], "last_index") == 0);
    for (const std::size_t step : {1, 2}) {
        CHECK(number(graphs.calls[step], "cross_key_0") == 7);
        CHECK(integer(graphs.calls[step], "write_index") == static_cast<std::int64_t>(step));
    }
}

TEST_CASE("generation stops at its limit") {
    Scripted graphs{{3, 3, 3}};
    CHECK(greedy(std::ref(graphs), variant(), encoded(), {1}, 2).ids == Ids{3, 3});
    CHECK(graphs.calls.size() == 3);
    CHECK_SAYS(greedy(std::ref(graphs), variant(), encoded(), {1}, 4), RequestError, "outside 1..3");
    CHECK_SAYS(greedy(std::ref(graphs), variant(), encoded(), {1}, 0), RequestError, "outside 1..3");
}

TEST_CASE("no bias where none was asked for, or where the graph carries its own") {
    Variant off = variant(), inside = variant();
    off.compression[0].size_bias = false;
    inside.compression[0].seam.graph = "prefill";
    for (const Variant& made : {off, inside}) {
        Scripted graphs{{kEos}};
        greedy(std::ref(graphs), made, encoded(), {1});
        CHECK(number(graphs.calls[1], "token_bias") == 0);
    }
}

TEST_CASE("an encoder that keeps every token need not say so") {
    Variant whole = variant();
    whole.generation->tokens_in = 2;
    Scripted graphs{{kEos}};
    const Answer answer = greedy(std::ref(graphs), whole, {{"tokens", encoded()["tokens"]}}, {1});
    CHECK(answer.kept_indices == std::vector<std::int64_t>{0, 1});
    CHECK(answer.sizes == std::vector<float>{1, 1});
    CHECK_SAYS(greedy(std::ref(graphs), variant(), {{"tokens", encoded()["tokens"]}}, {1}), GraphError,
               "no output kept_indices");
}

TEST_CASE("ties go to the lowest id, and NaN to an error") {
    const auto logits = [](std::vector<float> values) {
        return [values](const std::string& role, Tensors) -> Tensors {
            if (role == "embed") return {{"inputs_embeds", Tensor::of<float>({1}, {0})}};
            return {{"logits", Tensor::of({1, static_cast<std::int64_t>(values.size())}, values)}};
        };
    };
    CHECK(greedy(logits({0, 0, 0, 1, 1, 0}), variant(), encoded(), {1}, 1).ids == Ids{3});
    CHECK_SAYS(greedy(logits({0, NAN, 0, 1, NAN, 0}), variant(), encoded(), {1}), GraphError,
               "2 of 6 logits are NaN at token 0");
    CHECK_SAYS(greedy(logits({0, INFINITY, 0, 1, 0, 0}), variant(), encoded(), {1}), GraphError, "logits is inf at");
    const std::vector<float> none(kVocabulary, -INFINITY);
    CHECK_SAYS(greedy(logits(none), variant(), encoded(), {1}), GraphError, "logits is -inf at");
    CHECK_SAYS(greedy(logits({0, 0, 0, 1, 1}), variant(), encoded(), {1}), GraphError, "vocabulary has 6 ids");
    CHECK_SAYS(greedy(logits({0, 0, 0, 1, 1, 0, 2}), variant(), encoded(), {1}), GraphError, "vocabulary has 6 ids");
}

TEST_CASE("prompts and encodings that cannot be are refused") {
    Scripted graphs{{kEos}};
    const auto ask = [&](const Ids& prompt, const Tensors& with) {
        return greedy(std::ref(graphs), variant(), with, prompt);
    };
    CHECK_SAYS(ask({1, 1, 1, 1, 1, 1}, encoded()), RequestError, "at most 5");
    CHECK_SAYS(ask({}, encoded()), RequestError, "0 ids");
    CHECK_SAYS(ask({6}, encoded()), RequestError, "outside the vocabulary");
    CHECK_SAYS(ask({-1}, encoded()), RequestError, "outside the vocabulary");
    Tensors odd = encoded();
    for (const float size : {0.0f, -1.0f, INFINITY, NAN}) {
        odd["sizes"] = Tensor::of<float>({1, 2}, {1, size});
        CHECK_SAYS(ask({1}, odd), GraphError, "sizes[1] is");
    }
    odd["sizes"] = Tensor::of<float>({1, 3}, {1, 1, 1});
    CHECK_SAYS(ask({1}, odd), GraphError, "image_span keeps 2");
    for (const std::vector<std::int64_t>& shape : {std::vector<std::int64_t>{2}, {2, 1}, {1, 2, 1}}) {
        odd["sizes"] = Tensor::of<float>(shape, {1, 1});
        CHECK_SAYS(ask({1}, odd), GraphError, "image_span keeps 2");
    }
    odd = encoded();
    odd["kept_indices"] = Tensor::of<std::int64_t>({2, 1}, {1, 3});
    CHECK_SAYS(ask({1}, odd), GraphError, "the encoder's kept_indices are [2, 1]");
    Variant mute = variant();
    mute.generation.reset();
    CHECK_SAYS(greedy(std::ref(graphs), mute, encoded(), {1}), RequestError, "no language graphs");
}

namespace {

// Caches [1, 2, 9, 1] whose slots say which token was written there; decode returns the slices of one token.
struct Sliced {
    std::vector<int> ids;
    std::size_t said = 0;
    std::vector<std::vector<float>> seen = {};  // what decode was given as its past
    std::vector<const void*> buffers = {};      // and where that lay

    Tensors operator()(const std::string& role, Tensors inputs) {
        if (role == "embed") return {{"inputs_embeds", Tensor::of<float>({1}, {0})}};
        std::vector<float> logits(kVocabulary, 0.0f);
        logits[static_cast<std::size_t>(ids.at(said++))] = 1;
        Tensors outputs = {{"logits", Tensor::of({1, kVocabulary}, logits)}};
        if (role == "prefill") {
            outputs["present_key_0"] = Tensor::of({1, 2, 9, 1}, std::vector<float>(18));
        } else {
            const Tensor& past = inputs.at("past_key_0");
            seen.push_back(past.floats());
            buffers.push_back(past.host());
            const auto token = static_cast<float>(*inputs.at("input_ids").values<std::int64_t>());
            outputs["new_key_0"] = Tensor::of<float>({1, 2, 1, 1}, {token, -token});
        }
        return outputs;
    }
};

Variant sliced() {
    Variant made = variant();
    GraphRecord decode;
    decode.outputs["new_key_0"] = {"new", DType::float32, {1, 2, 1, 1}};
    made.graphs["decode"] = decode;
    return made;
}

}  // namespace

TEST_CASE("new keys and values are written into buffers that stay") {
    Sliced graphs{{3, 4, 5, kEos}};
    Variant made = sliced();
    made.generation->max_new_tokens = 4;
    CHECK(greedy(std::ref(graphs), made, encoded(), {1, 5, 5}).ids == Ids{3, 4, 5});
    REQUIRE(graphs.seen.size() == 3);
    CHECK(graphs.seen[0] == std::vector<float>(18));
    std::vector<float> wanted(18);
    wanted[5] = 3, wanted[9 + 5] = -3;
    CHECK(graphs.seen[1] == wanted);
    wanted[6] = 4, wanted[9 + 6] = -4;
    CHECK(graphs.seen[2] == wanted);
    CHECK(graphs.buffers[1] == graphs.buffers[0]);
    CHECK(graphs.buffers[2] == graphs.buffers[0]);
}

TEST_CASE("the last slot may be written, and none behind it") {
    Variant made = sliced();
    made.generation->max_new_tokens = 9;
    // Prompt and image fill the slots up to 4; tokens go to 5, 6, 7 and 8.
    Sliced fits{{3, 3, 3, 3, 3, kEos}};
    CHECK(greedy(std::ref(fits), made, encoded(), {1, 5, 5}, 5).ids.size() == 5);
    Sliced more{{3, 3, 3, 3, 3, 3, 3, 3}};
    CHECK_SAYS(greedy(std::ref(more), made, encoded(), {1, 5, 5}), GraphError, "does not fit slot 9 of float32 [1, 2, 9, 1]");
}

TEST_CASE("a slice is written where it belongs, and other tensors keep what they share") {
    Tensor cache = Tensor::of({2, 3, 2}, std::vector<std::int32_t>(12));
    const Tensor shared = cache;
    cache.put(Tensor::of<std::int32_t>({2, 1, 2}, {1, 2, 3, 4}), 1);
    const auto* values = cache.values<std::int32_t>();
    CHECK(std::vector<std::int32_t>(values, values + 12) == std::vector<std::int32_t>{0, 0, 1, 2, 0, 0, 0, 0, 3, 4, 0, 0});
    CHECK(shared.values<std::int32_t>()[2] == 0);
    const Tensor slice = Tensor::of<std::int32_t>({2, 1, 2}, {1, 2, 3, 4});
    for (const std::int64_t slot : {-1, 3}) CHECK_SAYS(cache.put(slice, slot), GraphError, "does not fit slot");
    CHECK_SAYS(cache.put(Tensor::of<float>({2, 1, 2}, {1, 2, 3, 4}), 0), GraphError, "float32 [2, 1, 2] does not fit");
    CHECK_SAYS(cache.put(shared, 0), GraphError, "int32 [2, 3, 2] does not fit");
}

TEST_CASE("decode returns a slice of a cache that prefill does not have") {
    Sliced graphs{{3, 3}};
    const auto run = [&](const std::string& role, Tensors inputs) {
        Tensors outputs = graphs(role, std::move(inputs));
        if (role == "decode") outputs["new_value_7"] = outputs["new_key_0"];
        return outputs;
    };
    CHECK_SAYS(greedy(run, sliced(), encoded(), {1}), GraphError, "decode returns new_value_7, and prefill has no such");
}
