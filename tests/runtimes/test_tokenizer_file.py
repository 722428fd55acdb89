"""tokenizer.json: text to ids and back as its own library does it, and what is refused of a file."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import toy_bundle
import toy_listener
from hypothesis import given, settings
from hypothesis import strategies as st
from tokexport.errors import BundleError, GraphError, MissingError, RequestError
from tokexport.runtimes import tokenizer_file
from tokexport.runtimes.bundle.manifest import GenerationRecord, Manifest, ProcessorRecord
from tokexport.runtimes.bundle.writer import BundleWriter
from tokexport.runtimes.load import load
from tokexport.runtimes.tokenizer_file import TokenizerFile

tokenizers = pytest.importorskip("tokenizers")
from toy_tokenizer import SPECIAL, tokenizer_json  # noqa: E402

RIGHT = tokenizer_json()
V = max(token["id"] for token in RIGHT["added_tokens"]) + 1
EOS = next(token["id"] for token in RIGHT["added_tokens"] if token["content"] == SPECIAL[0])


def generation(vocabulary: int = V) -> GenerationRecord:
    return toy_listener.generation().model_copy(
        update={"vocabulary": vocabulary, "bos": EOS + 1, "pad": EOS, "eos": [EOS]}
    )


def read(data: Any, record: GenerationRecord | None = None) -> TokenizerFile:
    return TokenizerFile(json.dumps(data).encode(), Path("tokenizer.json"), record or generation())


WHOLE = read(RIGHT)


def test_a_prompt_is_bos_and_the_ids_of_the_library() -> None:
    theirs = tokenizers.Tokenizer.from_str(json.dumps(RIGHT)).encode(" hello wörld").ids
    assert WHOLE.tokenize(" hello wörld") == theirs
    assert WHOLE.prompt(" hello wörld") == [EOS + 1, *theirs]


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=40))
def test_a_text_comes_back(text: str) -> None:
    assert WHOLE.detokenize(WHOLE.tokenize(text)) == text


@pytest.mark.parametrize("special", SPECIAL)
def test_special_tokens_cannot_be_typed(special: str) -> None:
    ids = WHOLE.tokenize(f"a{special}b")
    assert not {*range(EOS, EOS + len(SPECIAL))} & {*ids}
    assert WHOLE.detokenize(ids) == f"a{special}b"


def test_special_tokens_are_no_text_and_eos_ends_it() -> None:
    (word,) = WHOLE.tokenize(" hello")
    assert WHOLE.detokenize([EOS + 1, word, EOS + 2, word, EOS, word]) == " hello hello"


def test_an_id_that_the_file_lacks_is_an_error_of_the_graphs() -> None:
    with pytest.raises(GraphError, match=rf"id {V}, .*tokenizer has none such.*export the bundle again"):
        WHOLE.detokenize([V])


def test_an_id_outside_the_vocabulary_of_the_model_is_refused() -> None:
    read(RIGHT, generation(V))
    with pytest.raises(BundleError, match=rf"an id {V - 1}, and the model a vocabulary of {V - 1}"):
        read(RIGHT, generation(V - 1))


def test_without_a_generation_record_there_is_no_bos_to_begin_with() -> None:
    alone = TokenizerFile(json.dumps(RIGHT).encode(), Path("tokenizer.json"))
    assert alone.detokenize(alone.tokenize("hello")) == "hello"
    with pytest.raises(RequestError, match="which id a prompt begins with"):
        alone.prompt("hello")


def test_padding_truncation_and_dropout_of_the_file_do_not_change_a_text() -> None:
    changed = json.loads(json.dumps(RIGHT))
    changed["model"]["dropout"] = 1.0
    changed["truncation"] = {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}
    changed["padding"] = {
        "strategy": {"Fixed": 1 << 40}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0,
        "pad_type_id": 0, "pad_token": "!",
    }  # fmt: skip
    assert read(changed).tokenize(" hello small world") == WHOLE.tokenize(" hello small world")


def _with(**parts: Any) -> dict[str, Any]:
    return {**RIGHT, **parts}


def _replacing(content: str, times: int) -> dict[str, Any]:
    one = {"type": "Replace", "pattern": {"String": "a"}, "content": content}
    return {"type": "Sequence", "normalizers": [one] * times}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "it is a list, and no object"),
        ({}, "it has no 'model'"),
        (_with(model={"type": "Magic"}), "the tokenizer is damaged"),
        (_with(normalizer=_replacing("aa", 60)), "can make a text more than 64 times longer"),
        (_with(normalizer=_replacing("a" * 65, 1)), "can make a text more than 64 times longer"),
        (_with(normalizer=_replacing("b", 70)), "has more than 64 parts"),
        (_with(decoder={"type": "Sequence", "decoders": [{"type": "ByteLevel"}] * 7}), "its decoder can make"),
        (_with(added_tokens=[{**RIGHT["added_tokens"][0], "content": "x" * 70_000}]), "a token has 70000 characters"),
    ],
)
def test_a_damaged_or_hostile_file_is_refused(data: Any, message: str) -> None:
    with pytest.raises(BundleError, match=message):
        read(data)


def test_what_real_files_have_may_stand_in_a_chain() -> None:
    llama = [{"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]
    decoders = [
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
        {"type": "Strip", "content": " ", "start": 1, "stop": 0},
    ]  # fmt: skip
    parts = {"normalizer": {"type": "Sequence", "normalizers": llama}, "pre_tokenizer": None}
    read(_with(**parts, decoder={"type": "Sequence", "decoders": decoders})).tokenize("hello")


@pytest.mark.parametrize("pattern", ["(a|aa)+$b", "(a+a+)+b"])
def test_a_pattern_that_never_ends_is_given_up(pattern: str) -> None:
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    with pytest.raises(BundleError, match=r"the tokenizer is damaged: .*retry-limit"):
        read(_with(pre_tokenizer=split)).tokenize("a" * 1000)


def test_a_panic_of_the_library_is_an_error_of_the_file() -> None:
    damaged = _with(normalizer={"type": "Precompiled", "precompiled_charsmap": "AAAAAAA="})
    with pytest.raises(BundleError, match="the tokenizer is damaged: index out of bounds"):
        read(damaged).tokenize("hello")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda path: path.write_bytes(b"[" * 100_000), "nested too deeply"),
        (lambda path: path.write_bytes(b'{"model": '), "damaged"),
        (lambda path: path.unlink(), "No such file"),
        (lambda path: path.write_bytes(b" " * 3000), "has more than 2000 bytes"),
    ],
)
def test_a_file_is_read_up_to_a_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Path], None], message: str
) -> None:
    read_bounded = tokenizer_file.read_bounded
    most = 2000 if message.startswith("has more") else 1 << 20
    monkeypatch.setattr(tokenizer_file, "read_bounded", lambda path: read_bounded(path, most))
    path = tmp_path / "tokenizer.json"
    path.write_bytes(b"{}")
    change(path)
    with pytest.raises(BundleError, match=rf"{message}.*\n?.*tokenizer\.json"):
        TokenizerFile.load(path, generation())


@pytest.mark.parametrize(("text", "message"), [("x" * 100_001, "100001 characters"), ("\ud800", "no text")])
def test_what_is_no_prompt_is_refused(text: str, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        WHOLE.tokenize(text)


def test_without_the_library_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(MissingError, match=r'pip install "tokexport\[text\]"'):
        read(RIGHT)


def test_a_bundle_reads_text_by_its_tokenizer(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")

    def write(out: Path, record: GenerationRecord) -> Path:
        with BundleWriter(out) as writer:
            made: Manifest = toy_bundle.fill(writer)
            writer.add_json("processor/tokenizer.json", RIGHT)
            made.processor = ProcessorRecord(kind="tokenizers", tokenizer="processor/tokenizer.json")
            made.variants[0].generation = record
            return writer.commit(made)

    right = toy_bundle.generation().model_copy(update={"vocabulary": V, "bos": EOS + 1, "pad": EOS, "eos": [EOS]})
    session = load(write(tmp_path / "right", right), threads=1)
    assert session.ids(" hello") == [EOS + 1, *WHOLE.tokenize(" hello")]
    small = load(write(tmp_path / "small", right.model_copy(update={"vocabulary": V - 1})), threads=1)
    with pytest.raises(BundleError, match="a vocabulary of"):
        small.ids(" hello")
