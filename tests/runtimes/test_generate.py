from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import toy_bundle
from tokexport.errors import GraphError, RequestError
from tokexport.runtimes.bundle.manifest import Variant
from tokexport.runtimes.generate import Answer, forced, greedy, greedy_batch
from tokexport.runtimes.kv_cache import KVCache

P, K, N, V, NEW, CAPACITY = (getattr(toy_bundle, name) for name in ("P", "K", "N", "V", "NEW", "CAPACITY"))
Calls = list[tuple[str, dict[str, np.ndarray]]]


def encoded(**changes: Any) -> dict[str, np.ndarray]:
    outputs = {
        "tokens": np.zeros((1, K, 3), np.float16),
        "kept_indices": np.array([[1, 3]]),
        "sizes": np.array([[3, 1]], np.float32),
    }
    return {name: value for name, value in (outputs | changes).items() if value is not None}


def recorder(answers: list[int], calls: Calls, schema: int = 2) -> Callable[..., dict[str, np.ndarray]]:
    """Graphs that answer with the given ids, and number their caches by the call that made them."""
    left = iter(answers)

    def run(role: str, /, **inputs: np.ndarray) -> dict[str, np.ndarray]:
        # Caches are written later on.
        calls.append((role, {name: value.copy() for name, value in inputs.items()}))
        if role == "embed":
            return {"inputs_embeds": np.full((1, P + K, 3), 7, np.float16)}
        logits = np.zeros((1, V), np.float32)
        logits[0, next(left)] = 1
        made, slots = ("present", CAPACITY) if role == "prefill" or schema == 1 else ("new", 1)
        caches = {
            f"{made}_{kind}_{layer}": np.full((1, 2, slots, 3), 100 * layer + len(calls), np.float16)
            for kind in ("key", "value")
            for layer in (0, 1)
        }
        return {"logits": logits, **caches}

    return run


def toy(size_bias: bool = True) -> Variant:
    return toy_bundle.variant({}, size_bias=size_bias)


def test_every_value_reaches_its_graph() -> None:
    calls: Calls = []
    answer, kept, sizes = greedy(recorder([5, 6, 2], calls), toy(), encoded(), [1, 3, 4])
    assert answer == [5, 6]
    np.testing.assert_array_equal(kept, [1, 3])
    np.testing.assert_array_equal(sizes, [3, 1])
    assert [role for role, _ in calls] == ["embed", "prefill", "decode", "decode"]
    embed, prefill, first, second = (inputs for _, inputs in calls)
    np.testing.assert_array_equal(embed["input_ids"], [[1, 3, 4, 0, 0]])
    assert embed["input_ids"].dtype == np.int64
    assert embed["tokens"].dtype == np.float16
    assert (prefill["inputs_embeds"] == 7).all()
    np.testing.assert_array_equal(prefill["kept_indices"], [[1, 3]])
    np.testing.assert_array_equal(prefill["last_index"], [3 + K - 1])
    for inputs in (prefill, first, second):
        np.testing.assert_allclose(inputs["token_bias"], [[np.log(3), 0]], rtol=1e-6)
        assert inputs["token_bias"].dtype == np.float32
    np.testing.assert_array_equal(first["input_ids"], [[5]])
    np.testing.assert_array_equal(second["input_ids"], [[6]])
    np.testing.assert_array_equal(first["write_index"], [3 + K])
    np.testing.assert_array_equal(second["write_index"], [3 + K + 1])
    assert first["write_index"].dtype == first["input_ids"].dtype == np.int64


def test_by_position_prefill_alone_is_told_which_slot_each_token_went_into() -> None:
    variant = toy()
    assert variant.generation is not None
    variant = variant.model_copy(update={"generation": variant.generation.model_copy(update={"by_position": True})})
    calls: Calls = []
    greedy(recorder([5, 2], calls), variant, encoded(assignment=np.array([[0, 0, -1, 1]])), [1, 3, 4])
    told = [inputs.get("assignment") for _, inputs in calls]
    assert [one is None for one in told] == [True, False, True]
    np.testing.assert_array_equal(told[1], [[0, 0, -1, 1]])
    with pytest.raises(GraphError, match=r"reads an assignment \[1, 4\], and it is \[1, 2\]"):
        greedy(recorder([5, 2], calls), variant, encoded(assignment=np.array([[0, 1]])), [1, 3, 4])


def test_a_given_text_is_read_word_by_word() -> None:
    calls: Calls = []
    logits = forced(recorder([5, 6, 2], calls), toy(), encoded(), [1, 3, 4], [7, 8, 2])
    assert logits.argmax(1).tolist() == [5, 6, 2]
    assert [role for role, _ in calls] == ["embed", "prefill", "decode", "decode"]
    assert [inputs["input_ids"].tolist() for _, inputs in calls[2:]] == [[[7]], [[8]]]
    said: Calls = []
    greedy(recorder([7, 8, 2], said), toy(), encoded(), [1, 3, 4])
    for (_, own), (_, other) in zip(calls, said, strict=True):
        assert own.keys() == other.keys()
        for name in own.keys() - {"input_ids"}:
            np.testing.assert_array_equal(own[name], other[name])


@pytest.mark.parametrize("text", [[], [5] * (NEW + 1)])
def test_a_given_text_must_fit(text: list[int]) -> None:
    with pytest.raises(RequestError, match="max_new_tokens"):
        forced(recorder([], []), toy(), encoded(), [1, 3, 4], text)


def test_caches_go_from_call_to_call_layer_by_layer() -> None:
    calls: Calls = []
    greedy(recorder([5, 6, 7, 2], calls), toy(), encoded(), [1, 3])
    for step, (_, inputs) in enumerate(calls[2:]):
        # Prefill was the second call; behind its two words and the image each step's slice has its own slot.
        made_by = np.full(CAPACITY, 2)
        made_by[K + 2 : K + 2 + step] = [3, 4][:step]
        for layer in (0, 1):
            for kind in ("key", "value"):
                cache = inputs[f"past_{kind}_{layer}"]
                assert cache.dtype == np.float16 and cache.shape == (1, 2, CAPACITY, 3)
                assert (cache == 100 * layer + made_by[:, None]).all()


def test_whole_caches_of_schema_1_replace_those_before() -> None:
    calls: Calls = []
    greedy(recorder([5, 6, 2], calls, schema=1), toy(), encoded(), [1, 3])
    for made_by, (_, inputs) in zip((2, 3), calls[2:]):
        for layer in (0, 1):
            assert (inputs[f"past_key_{layer}"] == 100 * layer + made_by).all()
            assert (inputs[f"past_value_{layer}"] == 100 * layer + made_by).all()


def test_each_row_is_written_at_its_own_slot_up_to_the_last() -> None:
    cache = KVCache({"present_key_0": np.zeros((2, 2, 4, 3)), "cross_key_0": np.ones(1), "logits": np.zeros(1)})
    new = np.arange(1, 13.0).reshape(2, 2, 1, 3)
    cache.keep({"new_key_0": new, "logits": np.zeros(1)}, np.array([3, 1]))
    assert sorted(cache.inputs) == ["cross_key_0", "past_key_0"]
    buffer = cache.inputs["past_key_0"]
    np.testing.assert_array_equal(buffer[0, :, 3], new[0, :, 0])
    np.testing.assert_array_equal(buffer[1, :, 1], new[1, :, 0])
    assert np.count_nonzero(buffer) == 12
    with pytest.raises(GraphError, match=r"4 slots, .* at slot 4 \(input past_key_0 of decode\)"):
        cache.keep({"new_key_0": new}, np.array([2, 4]))


def test_layers_that_see_fewer_tokens_have_shorter_caches() -> None:
    """A slot counts in the sequence of the first layer."""
    told = {"token_bias_1": np.ones((1, 3)), "kept_indices_1": np.ones((1, 3))}
    cache = KVCache({"present_key_0": np.zeros((1, 1, 9, 2)), "present_key_1": np.zeros((1, 1, 6, 2)), **told})
    cache.keep({f"new_key_{layer}": np.full((1, 1, 1, 2), layer + 1) for layer in (0, 1)}, np.array([7]))
    assert sorted(cache.inputs) == ["past_key_0", "past_key_1", "token_bias_1"]
    for layer, slot in ((0, 7), (1, 4)):
        buffer = cache.inputs[f"past_key_{layer}"]
        assert (buffer[0, 0, slot] == layer + 1).all() and np.count_nonzero(buffer) == 2


def test_of_several_images_a_cache_is_shorter_by_what_is_gone_of_those_in_the_prompt() -> None:
    """Each had three tokens and has one: of three in the first row, and of one in the second."""
    made = {"present_key_0": np.zeros((2, 1, 15, 1)), "present_key_1": np.zeros((2, 1, 9, 1))}
    cache = KVCache(made, np.array([[0, 4, 7], [1, 15, 15]]))
    cache.keep({f"new_key_{layer}": np.ones((2, 1, 1, 1)) for layer in (0, 1)}, np.array([12, 6]))
    written = [cache.inputs[f"past_key_{layer}"][:, 0, :, 0].nonzero()[1].tolist() for layer in (0, 1)]
    assert written == [[12, 6], [6, 4]]


def test_without_size_bias_the_bias_is_zero() -> None:
    calls: Calls = []
    greedy(recorder([2], calls), toy(size_bias=False), encoded(), [1, 3])
    np.testing.assert_array_equal(calls[1][1]["token_bias"], np.zeros((1, K), np.float32))


def test_sizes_of_a_seam_in_the_decoder_are_not_the_encoders() -> None:
    calls: Calls = []
    variant = toy()
    variant.compression[0].seam.graph = "prefill"
    greedy(recorder([2], calls), variant, encoded(), [1, 3])
    np.testing.assert_array_equal(calls[1][1]["token_bias"], np.zeros((1, K), np.float32))


@pytest.mark.parametrize("limit", [1, 2, NEW, None])
def test_stops_at_the_limit_without_a_decode_too_many(limit: int | None) -> None:
    calls: Calls = []
    answer, _, _ = greedy(recorder([5] * 20, calls), toy(), encoded(), [1, 3], limit)
    assert len(answer) == (limit or NEW)
    assert len(calls) == 1 + (limit or NEW)


def test_eos_at_once_is_an_empty_answer() -> None:
    assert greedy(recorder([2], []), toy(), encoded(), [1])[0] == []


def test_ties_go_to_the_lowest_id() -> None:
    def run(role: str, /, **inputs: np.ndarray) -> dict[str, np.ndarray]:
        logits = np.zeros((1, V), np.float16)
        logits[0, [4, 7]] = 1
        return {"inputs_embeds": np.zeros(1), "logits": logits}

    assert greedy(run, toy(), encoded(), [1], 1)[0] == [4]


@pytest.mark.parametrize("limit", [0, -1, NEW + 1])
def test_limit_outside_is_refused_not_clamped(limit: int) -> None:
    with pytest.raises(RequestError, match=rf"max_new_tokens {limit} is outside 1\.\.{NEW}"):
        greedy(recorder([2], []), toy(), encoded(), [1], limit)


@pytest.mark.parametrize(
    ("prompt", "message"),
    [([1, 3, 3, 3, 3, 3], "6 ids, and the graphs take at most 5"), ([], "0 ids"), ([1, V], f"id {V}"), ([-1], "id -1")],
)
def test_prompt_must_fit(prompt: list[int], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        greedy(recorder([2], []), toy(), encoded(), prompt)


def test_longest_prompt_fits() -> None:
    calls: Calls = []
    greedy(recorder([5, 2], calls), toy(), encoded(), [1, 3, 3, 3, 3])
    np.testing.assert_array_equal(calls[1][1]["last_index"], [P + K - 1])


def test_prompt_must_reach_the_image() -> None:
    variant = toy()
    assert variant.generation is not None
    variant.generation.image_span = (3, K)
    with pytest.raises(RequestError, match="2 ids, and 3 stand before the image"):
        greedy(recorder([2], []), variant, encoded(), [1, 3])


@pytest.mark.parametrize("value", [np.nan, np.inf, 0, -1])
def test_sizes_must_be_finite_and_positive(value: float) -> None:
    with pytest.raises(GraphError, match=r"sizes\[1\]"):
        greedy(recorder([2], []), toy(), encoded(sizes=np.array([[1, value]], np.float32)), [1])


@pytest.mark.parametrize("name", ["sizes", "kept_indices"])
@pytest.mark.parametrize("shape", [(1, K, 1), (1, K + 1), (K,)])
def test_what_was_kept_has_one_number_for_each_slot(name: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(GraphError, match=rf"{name} is .*, and image_span keeps {K} tokens"):
        greedy(recorder([2], []), toy(), encoded(**{name: np.zeros(shape, np.int64)}), [1])


def test_logits_have_one_number_for_each_id() -> None:
    variant = toy()
    assert variant.generation is not None
    variant.generation.vocabulary, variant.generation.suppress = V + 1, [V]
    with pytest.raises(
        GraphError, match=rf"the logits are \[1, {V}\], and the vocabulary has {V + 1} ids .*of prefill"
    ):
        greedy(recorder([2], []), variant, encoded(), [1])


@pytest.mark.parametrize(("answers", "role", "step"), [([], "prefill", 0), ([5], "decode", 1)])
def test_nan_logits_are_an_error_with_their_step(answers: list[int], role: str, step: int) -> None:
    good = recorder(answers, [])

    def run(asked: str, /, **inputs: np.ndarray) -> dict[str, np.ndarray]:
        try:
            return good(asked, **inputs)
        except StopIteration:
            logits = np.zeros((1, V), np.float16)
            logits[0, 3] = np.nan
            return {"logits": logits}

    with pytest.raises(GraphError, match=rf"1 of {V} logits are NaN at token {step} \(output logits of {role}\)"):
        greedy(run, toy(), encoded(), [1])


def test_encoder_that_keeps_all_tokens_needs_no_indices() -> None:
    calls: Calls = []
    variant = toy()
    assert variant.generation is not None
    variant.generation.tokens_in = K
    greedy(recorder([2], calls), variant, encoded(kept_indices=None, sizes=None), [1])
    np.testing.assert_array_equal(calls[1][1]["kept_indices"], [[0, 1]])
    np.testing.assert_array_equal(calls[1][1]["token_bias"], [[0, 0]])


@pytest.mark.parametrize("lacking", [["kept_indices"], ["sizes"], ["kept_indices", "sizes"]])
def test_encoder_that_compresses_must_say_what_it_kept(lacking: list[str]) -> None:
    with pytest.raises(GraphError, match=f"no output {lacking[0]}"):
        greedy(recorder([2], []), toy(), encoded(**dict.fromkeys(lacking)), [1])


def test_answer_is_json() -> None:
    answer = Answer("a", [3], np.array([1, 3]), np.array([3, 1], np.float32))
    assert answer.to_json() == {"text": "a", "ids": [3], "kept_indices": [1, 3], "sizes": [3.0, 1.0]}


@pytest.mark.parametrize("limit", [1.5, "3", True])
def test_limit_is_a_whole_number(limit: Any) -> None:
    with pytest.raises(RequestError, match="is not a whole number"):
        greedy(recorder([2], []), toy(), encoded(), [1], limit)


def rows(scripts: list[list[int]], calls: Calls) -> Callable[..., dict[str, np.ndarray]]:
    """Graphs of a batch: row i answers with scripts[i], and with 4 once that has ended."""

    def run(role: str, /, **inputs: np.ndarray) -> dict[str, np.ndarray]:
        calls.append((role, inputs))
        if role == "embed":
            return {"inputs_embeds": np.zeros((len(scripts), P + K, 3), np.float16)}
        logits = np.zeros((len(scripts), V), np.float32)
        step = sum(role != "embed" for role, _ in calls) - 1
        for row, script in enumerate(scripts):
            logits[row, script[step] if step < len(script) else 4] = 1
        return {"logits": logits}

    return run


def batch(size: int) -> dict[str, np.ndarray]:
    return {name: np.repeat(value, size, 0) for name, value in encoded().items()}


def test_each_row_of_a_batch_gets_its_own_answer_prompt_and_write_index() -> None:
    calls: Calls = []
    said, kept, sizes = greedy_batch(
        rows([[5, 2], [6, 7, 3, 2], [2]], calls), toy(), batch(3), [[1, 3], [1], [1, 3, 4]]
    )
    assert said == [[5], [6, 7, 3], []]
    assert kept.shape == sizes.shape == (3, K)
    assert [role for role, _ in calls] == ["embed", "prefill", "decode", "decode", "decode"]
    np.testing.assert_array_equal(calls[0][1]["input_ids"], [[1, 3, 0, 0, 0], [1, 0, 0, 0, 0], [1, 3, 4, 0, 0]])
    np.testing.assert_array_equal(calls[1][1]["last_index"], [K + 1, K, K + 2])
    np.testing.assert_array_equal(calls[2][1]["write_index"], [K + 2, K + 1, K + 3])
    # What has ended is fed pad, whatever its graph goes on to say.
    np.testing.assert_array_equal(
        [inputs["input_ids"][:, 0] for _, inputs in calls[2:]], [[5, 6, 0], [0, 7, 0], [0, 3, 0]]
    )


def test_nan_behind_the_end_of_an_answer_is_nobodys_business() -> None:
    good = rows([[2], [5, 2]], [])

    def run(role: str, /, **inputs: np.ndarray) -> dict[str, np.ndarray]:
        result = good(role, **inputs)
        if role == "decode":
            result["logits"][0] = np.nan
        return result

    assert greedy_batch(run, toy(), batch(2), [[1], [1]])[0] == [[], [5]]
