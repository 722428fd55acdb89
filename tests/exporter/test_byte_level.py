"""Whisper's vocab.json and merges.txt become the tokenizer that transformers reads from them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import tiny_checkpoints
from tokexport.errors import RequestError
from tokexport.exporter.opening import open_source
from tokexport.exporter.sources.byte_level import made
from tokexport.exporter.sources.checkpoint import Checkpoint
from tokexport.runtimes.tokenizer_file import TokenizerFile

tokenizers = pytest.importorskip("tokenizers")
transformers = pytest.importorskip("transformers")

TEXTS = (
    "a cat sat, the cat's hat",
    "  two  spaces\n\ttabs 12:30",
    "naïve “café” 日本 🎉",
    "#version # hash",
    "<|en|> text",
)


@pytest.fixture
def folder(tiny_whisper_folder: Path, tmp_path: Path) -> Path:
    """The tiny Whisper with bytes, a few merges and its own marks; ids of the marks stay behind those of the words."""
    folder = Path(shutil.copytree(tiny_whisper_folder, tmp_path / "older"))
    (folder / "tokenizer.json").unlink()
    words = [*sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()), "at", "cat", "Ġcat", "Ġt", "Ġth", "Ġthe", "ver"]
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    merges = ["a t", "c at", "Ġ cat", "Ġ t", "Ġt h", "Ġth e"]
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]))
    marks = [mark for mark in tiny_checkpoints.whisper_ids() if mark.startswith("<|")]
    (folder / "added_tokens.json").write_text(json.dumps({mark: len(words) + i for i, mark in enumerate(marks)}))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "vocab_size": len(words) + len(marks)}))
    return folder


def test_it_reads_and_writes_as_that_of_transformers(folder: Path) -> None:
    ours = TokenizerFile(made(Checkpoint(folder, "older")), folder)
    theirs = transformers.WhisperTokenizer.from_pretrained(folder)
    assert ours.ids == theirs.get_vocab()
    for text in TEXTS[:-1]:
        ids = ours.tokenize(text)
        assert ids == theirs(text, add_special_tokens=False).input_ids and ours.detokenize(ids) == text
    assert len(ours.tokenize(" the cat")) == 2
    # A prompt is text, whatever it looks like.
    assert ours.detokenize(ours.tokenize(TEXTS[-1])) == TEXTS[-1]
    marks = [ours.ids[mark] for mark in ("<|en|>", "<|0.00|>")]
    assert ours.detokenize(marks) == "<|0.00|>", "a time is no special token"


def test_files_that_do_not_fit_each_other_are_refused(folder: Path) -> None:
    def refused(file: str, content: str, match: str) -> None:
        before = (folder / file).read_bytes()
        (folder / file).write_text(content)
        with pytest.raises(RequestError, match=match):
            made(Checkpoint(folder, "older"))
        (folder / file).write_bytes(before)

    refused("added_tokens.json", '{"<|en|>": 9999}', r"added_tokens.json cannot be read: no token has the id before")
    refused("added_tokens.json", "[]", "no table of tokens and ids")
    refused("vocab.json", "{", "vocab.json cannot be read")
    refused("merges.txt", "a zz", "merges.txt cannot be read")
    refused("merges.txt", "a b c", "merges.txt cannot be read")


def test_the_folder_opens_and_carries_what_was_made(folder: Path) -> None:
    # Its settings name ids of another vocabulary.
    ids = TokenizerFile(made(Checkpoint(folder, "older")), folder).ids
    said = json.loads((folder / "generation_config.json").read_text())
    end, start = ids["<|endoftext|>"], ids["<|startoftranscript|>"]
    said |= {"eos_token_id": end, "pad_token_id": end, "bos_token_id": end, "decoder_start_token_id": start}
    said |= {"no_timestamps_token_id": ids["<|notimestamps|>"], "suppress_tokens": [], "begin_suppress_tokens": []}
    said |= {"lang_to_id": {"<|en|>": ids["<|en|>"]}, "task_to_id": {"transcribe": ids["<|transcribe|>"]}}
    (folder / "generation_config.json").write_text(json.dumps(said))
    config = json.loads((folder / "config.json").read_text())
    weights = transformers.WhisperForConditionalGeneration(transformers.WhisperConfig.from_dict(config))
    weights.save_pretrained(folder)
    (folder / "generation_config.json").write_text(json.dumps(said))
    source = open_source(str(folder), parts="all")
    assert source.processor_files == {"processor/tokenizer.json": made(Checkpoint(folder, "older"))}
