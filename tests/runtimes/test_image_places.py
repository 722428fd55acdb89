"""Several images in one prompt: what the graphs are given of them, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import toy_bundle
from pydantic import ValidationError
from tokexport.errors import RequestError
from tokexport.runtimes.bundle.manifest import GenerationRecord, GraphRecord, TensorRecord, Variant
from tokexport.runtimes.generate import greedy
from tokexport.runtimes.images import check_count, joined, placed, widened
from tokexport.runtimes.load import load

P, K, N, V, NEW = (getattr(toy_bundle, name) for name in ("P", "K", "N", "V", "NEW"))
# As many as a prompt may have; the id of their places; and what is behind the end of every sequence.
MOST, PLACE, END = 3, 7, P + 3 * K + NEW


def record(**changes: Any) -> GenerationRecord:
    known = toy_bundle.generation().model_dump()
    return GenerationRecord.model_validate({**known, "images": MOST, "placeholder": PLACE, **changes})


def image(number: int) -> dict[str, np.ndarray]:
    """What the encoder gives of one; besides what generation reads it gives an assignment."""
    return {
        "tokens": np.full((1, K, 3), number, np.float16),
        "kept_indices": np.array([[0, number]]),
        "sizes": np.array([[1, number]], np.float32),
        "assignment": np.zeros((1, N), np.int64),
    }


def test_images_stand_where_their_places_were():
    assert placed([1, PLACE, 5, PLACE, 6], record(), 2) == ([1, 5, 6], [1, 1 + K + 1, END])
    assert placed([PLACE, PLACE, PLACE], record(), 3) == ([], [0, K, 2 * K])


@pytest.mark.parametrize("prompt", [[1, 5], [1, PLACE, 5], [PLACE, PLACE, PLACE]])
def test_as_many_places_as_images_are_needed(prompt):
    with pytest.raises(RequestError, match=r"places of images \(id 7\), and the images are 2"):
        placed(prompt, record(), 2)


def test_what_the_encoder_gave_is_joined_in_its_order_and_filled_with_zeros():
    both = joined([image(1), image(2)])
    assert both.keys() == {"tokens", "kept_indices", "sizes"}
    assert both["tokens"][0, :, 0].tolist() == [1, 1, 2, 2] and both["kept_indices"].tolist() == [[0, 1, 0, 2]]
    tokens, kept = (widened(both[name], record()) for name in ("tokens", "kept_indices"))
    assert tokens[0, :, 0].tolist() == [1, 1, 2, 2, 0, 0] and tokens.dtype == np.float16
    assert kept.tolist() == [[0, 1, 0, 2, 0, 0]] and kept.dtype == np.int64
    assert widened(tokens, record()) is tokens


def test_every_graph_is_told_where_images_begin():
    calls = []

    def run(role: str, /, **inputs: np.ndarray) -> dict[str, np.ndarray]:
        calls.append((role, inputs))
        logits = np.zeros((1, V), np.float32)
        logits[0, 5 if role == "prefill" else 2] = 1
        return {"inputs_embeds": np.zeros(1), "logits": logits}

    several = toy_bundle.variant({}).model_copy(update={"generation": record()})
    answer, kept, sizes = greedy(run, several, joined([image(1), image(3)]), [1, PLACE, 5, PLACE, 6])
    assert answer == [5] and kept.tolist() == [0, 1, 0, 3] and sizes.tolist() == [1, 1, 1, 3]
    (_, embed), (_, prefill), (_, decode) = calls
    assert embed["input_ids"].tolist() == [[1, 5, 6, *[0] * (P - 3)]] and embed["tokens"].shape == (1, MOST * K, 3)
    assert prefill["kept_indices"].tolist() == [[0, 1, 0, 3, 0, 0]] and prefill["last_index"].tolist() == [2 + 2 * K]
    assert decode["write_index"].tolist() == [3 + 2 * K]
    for inputs in (embed, prefill, decode):
        assert inputs["image_starts"].tolist() == [[1, 2 + K, END]] and inputs["image_starts"].dtype == np.int64
    for inputs in (prefill, decode):
        np.testing.assert_allclose(inputs["token_bias"], [[0, 0, 0, np.log(3), 0, 0]], rtol=1e-6)


@pytest.mark.parametrize(
    ("taken", "count", "what", "fix"),
    [
        (record(), 4, "4 images are given, and the bundle takes at most 3 in a prompt", "Export it with --images 4"),
        (toy_bundle.generation(), 2, "2 inputs are given, and the bundle takes one in a prompt", "with --images 2"),
        (record(), 0, "no image, video or sound is given", "Give one"),
    ],
)
def test_more_images_than_a_bundle_takes_are_refused(taken, count, what, fix):
    check_count(taken, 1)
    with pytest.raises(RequestError, match=what) as refusal:
        check_count(taken, count)
    assert fix in (refusal.value.fix or "")


def test_a_bundle_for_one_image_takes_one(tmp_path):
    session, picture = load(toy_bundle.write(tmp_path / "b")), np.full((4, 4, 3), 200, np.uint8)
    assert session.generate([picture], "b a").to_json() == session.generate(picture, "b a").to_json()
    for given in ([picture, picture], []):
        with pytest.raises(RequestError, match=r"given"):
            session.generate(given, "b a")


PROMPT = {"before": "x", "after": "y", "image": PLACE, "several": ["xx", "xxx"]}


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"placeholder": None}, "go together"),
        ({"images": None}, "go together"),
        ({"images": 1}, "greater than or equal to 2"),
        ({"placeholder": V}, f"special id {V} is outside"),
        ({"attention": "cross", "image_span": (0, K)}, "cross-attention"),
        ({"prompt": {**PROMPT, "several": ["xx"]}}, "1 to 2 images are asked about, and a prompt may have 3"),
        ({"prompt": {**PROMPT, "several": None}}, "1 to 1 images"),
        ({"prompt": {**PROMPT, "image": PLACE - 1}}, f"is id {PLACE - 1}, and not {PLACE}"),
        ({"images": None, "placeholder": None, "prompt": PROMPT}, "and a prompt may have 1"),
    ],
)
def test_a_record_that_contradicts_itself_is_refused(changes, why):
    assert record(prompt=PROMPT).prompt.in_front(3) == "xxx" and record(prompt=PROMPT).prompt.in_front(1) == "x"
    with pytest.raises(ValidationError, match=why):
        record(**changes)


@pytest.mark.parametrize("role", ["embed", "prefill", "decode"])
def test_every_language_graph_takes_where_images_begin(role):
    known = {
        "embed": (("input_ids", "tokens"), ("inputs_embeds",)),
        "prefill": (("token_bias", "last_index"), ("logits",)),
        "decode": (("input_ids", "write_index", "token_bias"), ("logits",)),
    }

    def made(*more: str) -> Variant:
        inputs, outputs = (
            {name: TensorRecord(name=name, dtype="int64", shape=[1]) for name in names}
            for names in ((*known[role][0], *more), known[role][1])
        )
        graph = GraphRecord(forms={"portable": "a.onnx"}, precision="fp32", inputs=inputs, outputs=outputs)
        return Variant(name="a", compression=[], graphs={role: graph}, generation=record())

    assert made("image_starts").oldest_schema == "2.3"
    with pytest.raises(ValidationError, match=f"the graph `{role}` has no 'image_starts'"):
        made()
