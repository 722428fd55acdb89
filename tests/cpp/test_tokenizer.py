"""Ids as text: the C++ reading of a tokenizer.json against the library `tokenizers`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cpp_build import Calls
from tokexport.errors import BundleError

tokenizers = pytest.importorskip("tokenizers")

TEXT = ["The star is blue, isn't it?", "Straße über 3 Bäche: 好的 👍🏽 naïve", "   two  spaces\tand\nlines"] * 3


def byte_level() -> Any:
    """As of GPT-2 and Whisper, with times that are added but not special."""
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(TEXT, tokenizers.trainers.BpeTrainer(vocab_size=330, initial_alphabet=alphabet))
    made.add_special_tokens(["<|endoftext|>", "<|en|>"])
    made.add_tokens(["<|0.00|>", "<|0.02|>", "plain é", "two words"])
    return made


def metaspace(*, strips: bool = True) -> Any:
    """As of Llama and Moonshine: pieces of SentencePiece, and bytes for what they lack."""
    decoders = tokenizers.decoders
    made = tokenizers.Tokenizer(tokenizers.models.BPE(byte_fallback=True, unk_token="<unk>"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    made.decoder = decoders.Sequence(steps + ([decoders.Strip(" ", 1, 0)] if strips else []))
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    made.train_from_iterator(TEXT, tokenizers.trainers.BpeTrainer(vocab_size=400, special_tokens=tokens))
    # The pieces of bytes are tokens of the model, and only three are special.
    text = json.loads(made.to_str())
    text["added_tokens"] = text["added_tokens"][:3]
    return tokenizers.Tokenizer.from_str(json.dumps(text))


def words(decoder: Any) -> Any:
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel({"▁a": 0, "▁": 1, "b▁": 2, "<unk>": 3, "c": 9}, "<unk>"))
    if decoder is not None:
        made.decoder = decoder
    made.add_special_tokens(["c"])
    return made


KINDS = {
    "byte_level": byte_level,
    "metaspace": metaspace,
    "unstripped": lambda: metaspace(strips=False),
    "words": lambda: words(None),
    "prepended": lambda: words(tokenizers.decoders.Metaspace()),
    "never": lambda: words(tokenizers.decoders.Metaspace(prepend_scheme="never")),
    "strip": lambda: words(tokenizers.decoders.Strip("▁", 1, 0)),
    "unigram": lambda: tokenizers.Tokenizer(tokenizers.models.Unigram([("<unk>", 0.0), ("▁x", -1.0)], 0)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_ids_read_as_in_the_library(cpp: Calls, tmp_path: Path, kind: str) -> None:
    library = KINDS[kind]()
    path = tmp_path / "tokenizer.json"
    library.save(str(path))
    rng = np.random.default_rng(6)
    size = library.get_vocab_size() + 12
    broken = 0
    for trial in range(400):
        # Few different ids make tokens of bytes stand together.
        ids = rng.integers(0, size if trial % 2 else min(size, 262), rng.integers(0, 30)).tolist()
        expected = library.decode(ids)
        assert cpp("decode", tokenizer=path, ids=ids) == expected, ids
        broken += "\ufffd" in expected
    for text in TEXT:
        ids = library.encode(text).ids
        assert cpp("decode", tokenizer=path, ids=ids) == library.decode(ids)
    assert broken or kind not in ("byte_level", "metaspace")


@pytest.mark.parametrize(
    "bytes_of", [b"\xf0\x9f\x91", b"\xe2\x28\xa1", b"\xed\xa0\x80", b"\xc0\xaf", b"\xf4\x90\x80\x80"]
)
def test_broken_characters_read_as_in_the_library(cpp: Calls, tmp_path: Path, bytes_of: bytes) -> None:
    for kind in (byte_level, metaspace):
        library = kind()
        path = tmp_path / f"{kind.__name__}.json"
        library.save(str(path))
        for text in (bytes_of, b"a" + bytes_of + b"b", bytes_of + bytes_of, "é".encode() + bytes_of):
            ids = [_id(library, byte) for byte in text]
            assert cpp("decode", tokenizer=path, ids=ids) == library.decode(ids), text


def _id(library: Any, byte: int) -> int:
    """The token of one byte."""
    found = library.token_to_id(f"<0x{byte:02X}>")
    if found is not None:
        return found
    # GPT-2's characters of bytes.
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [i for i in range(256) if i not in shown]
    return library.token_to_id(chr(byte if byte in shown else 256 + hidden.index(byte)))


def test_what_is_not_known_is_refused_by_name(cpp: Calls, tmp_path: Path) -> None:
    whole = json.loads(byte_level().to_str())
    path = tmp_path / "tokenizer.json"
    for decoder, said in {
        "CTC": "at decoder.type: it cannot be 'CTC'",
        "WordPiece": "at decoder.type: it cannot be 'WordPiece'",
    }.items():
        path.write_text(json.dumps(whole | {"decoder": {"type": decoder}}))
        with pytest.raises(BundleError, match=said):
            cpp("decode", tokenizer=path, ids=[1])
    pattern = {"type": "Replace", "pattern": {"Regex": "a|b"}, "content": ""}
    path.write_text(json.dumps(whole | {"decoder": {"type": "Sequence", "decoders": [pattern]}}))
    with pytest.raises(BundleError, match=r"at decoder.decoders.0.pattern: .*no regular expression"):
        cpp("decode", tokenizer=path, ids=[1])
