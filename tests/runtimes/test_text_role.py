"""Encoders that read the question: what goes into the graph text and on into the encoder, on every runtime."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import stand_in_gpu
import toy_bundle
from PIL import Image
from pydantic import ValidationError
from tokexport.errors import RequestError
from tokexport.runtimes.bundle.manifest import TextRecord, Variant
from tokexport.runtimes.bundle.reader import open_bundle
from tokexport.runtimes.load import load
from tokexport.runtimes.session import Session
from tokexport.runtimes.tensorrt.engines.build import build_engines

pytest.importorskip("onnxruntime")
IMAGE = Image.new("RGB", (9, 5), "red")
LENGTH = 6
RECORD = TextRecord(vocabulary=toy_bundle.V, pad=0, blank=[0, 1, 2])

# A row is twice its id, and nothing for the ids below 3.
TEXT = f"""toy (int64[1,{LENGTH}] input_ids) => (float[1,{LENGTH},1] text)
<int64 first = {{3}}, float two = {{2}}, float none = {{0}}, int64[3] shape = {{1, {LENGTH}, 1}}>
{{
  blank = Less (input_ids, first)
  ids = Cast <to = 1> (input_ids)
  twice = Mul (ids, two)
  rows = Where (blank, none, twice)
  text = Reshape (rows, shape)
}}"""

# The tokens are the sum of the text.
ENCODER = toy_bundle.ENCODER.replace("] pixel_values)", f"] pixel_values, float[1,{LENGTH},1] text)").replace(
    "tokens = Expand (scaled, shape)",
    "nothing = Expand (scaled, shape)\n  sum = ReduceSum <keepdims = 1> (text)\n  tokens = Add (nothing, sum)",
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = toy_bundle.write(
        tmp_path_factory.mktemp("text") / "toy", record_of_text=RECORD, encoder=ENCODER, text=TEXT
    )
    with stand_in_gpu.installed():
        build_engines(open_bundle(folder))
    return folder


@pytest.fixture(params=["ort", "tensorrt"])
def session(made: Path, request: pytest.FixtureRequest) -> Iterator[Session]:
    with stand_in_gpu.installed():
        yield load(made, request.param)


def total(encoded: dict[str, np.ndarray]) -> float:
    return float(encoded["tokens"][0, 0, 0])


def test_a_prompt_reaches_the_encoder_as_text(session: Session) -> None:
    assert session.reads_text
    ids = session.words.prompt("b a") if session.words else []
    assert total(session.encode(IMAGE, "b a")) == 2 * (4 + 3) == total(session.encode(IMAGE, prompt=ids))
    text = session.run("text", input_ids=np.array([[*ids, 0, 2, 0]]))["text"]
    assert text[0, :, 0].tolist() == [0, 8, 6, 0, 0, 0]
    assert total(session.encode(IMAGE, text=text * 2)) == 28


def test_an_answer_is_about_the_tokens_of_its_own_question(session: Session) -> None:
    fed: list[float] = []
    original = session.execute

    def execute(role: str, feeds: dict[str, Any]) -> dict[str, Any]:
        fed.extend(feeds["text"].ravel().tolist() if role == "encoder" else ())
        return original(role, feeds)

    session.execute = execute  # type: ignore[method-assign]
    assert session.generate(IMAGE, "b a").text == "b c d e"
    assert session.generate(IMAGE, [1, 3]).ids == [4, 5, 6, 7]
    assert fed == [0, 8, 6, 0, 0, 0, 0, 6, 0, 0, 0, 0]


def test_what_cannot_be_is_refused(made: Path, session: Session, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"depend on the question, and there is none.*prompt='what colour"):
        session.encode(IMAGE)
    with pytest.raises(RequestError, match="7 ids, and the graphs take at most 6"):
        session.encode(IMAGE, prompt=[1] * 7)
    with pytest.raises(RequestError, match="outside the vocabulary of 10"):
        session.encode(IMAGE, prompt=[1, 10])
    with pytest.raises(RequestError, match="the text itself is passed"):
        session.encode(IMAGE, "a", text=np.zeros((1, LENGTH, 1), np.float32))
    plain = load(toy_bundle.write(tmp_path / "plain"))
    assert not plain.reads_text
    with pytest.raises(RequestError, match="does not read the question, so the prompt has no use"):
        plain.encode(IMAGE, "a")


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ({"vocabulary": 4, "pad": 4, "blank": [4]}, "special id 4 is outside the vocabulary of 4"),
        ({"vocabulary": 4, "pad": 0, "blank": [0, 5]}, "special id 5"),
        ({"vocabulary": 4, "pad": 0, "blank": [1]}, "pad 0 is not among the blank ids"),
    ],
)
def test_a_record_that_contradicts_itself(record: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        TextRecord.model_validate(record)


def test_graph_and_record_go_together(made: Path) -> None:
    whole = open_bundle(made).variant().model_dump(exclude_none=True)
    for gone in (("text",), ("graphs", "text")):
        broken = {**whole, "graphs": dict(whole["graphs"])}
        place = broken
        for key in gone[:-1]:
            place = place[key]
        del place[gone[-1]]
        with pytest.raises(ValidationError, match="go together, and one is missing"):
            Variant.model_validate(broken)
