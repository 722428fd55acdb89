"""The text side of a bundle as Hugging Face's files: tokenizer.json, tokenizer_config.json and a chat template."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from ...errors import RequestError
from ...files import parse_json, read_bounded
from ...runtimes.bundle.manifest import GenerationRecord
from ...runtimes.bundle.reader import Bundle
from ...runtimes.words import Words

PLACE = "<image>"


@dataclass(frozen=True)
class Texts:
    """What is written about text.

    Attributes:
        tokenizer: of tokenizer.json.
        config: of tokenizer_config.json.
        place: the token that stands for a token of the image.
        image: its id.
    """

    tokenizer: dict[str, Any]
    config: dict[str, Any]
    place: str
    image: int


def texts_of(bundle: Bundle, record: GenerationRecord, *, counted: bool) -> Texts:
    """What a bundle says about its text.

    Args:
        bundle: opened.
        record: of a variant.
        counted: whether the runtime writes as many placeholders as there are tokens; the template does otherwise.

    Raises:
        RequestError: it has no text processor.
        BundleError: its file is damaged or has changed.
    """
    processor = bundle.manifest.processor
    name = processor.tokenizer if processor.kind == "tokenizers" else processor.vocabulary
    if name is None:
        raise RequestError(
            "the bundle has no tokenizer, without which other runtimes read no model",
            where=str(bundle.path),
            fix="Export it again from a folder with its tokenizer.json.",
        )
    with bundle.unchanged([name]):
        if processor.kind == "tokenizers":
            tokenizer = parse_json(read_bounded(bundle.file(name)))
        else:
            tokenizer = _of_words(Words.load(bundle.file(name)))
    named = {token["id"]: token["content"] for token in tokenizer.get("added_tokens", [])}
    # A model without a placeholder of its own gets the id behind the last, which no graph looks up.
    image = record.vocabulary if record.prompt is None else record.prompt.image
    if image not in named and record.attention == "self":
        named[image] = named.get(image) or _known(tokenizer).get(image) or PLACE
        tokenizer["added_tokens"] = [*tokenizer.get("added_tokens", []), _special(image, named[image])]
    if record.prompt is not None and not record.prompt.add_special_tokens:
        # The text of the prompt has them already; what is called by other runtimes would add them again.
        tokenizer["post_processor"] = None
    known = {**_known(tokenizer), **named}
    config: dict[str, Any] = {
        # Whisper's knows marks and times; every other one is what its tokenizer.json says.
        "tokenizer_class": "WhisperTokenizer" if record.speech else "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "model_max_length": record.prompt_length + record.tokens_in + record.max_new_tokens,
        **{f"{mark}_token": known[i] for mark, i in (("bos", record.bos), ("pad", record.pad)) if i in known},
        **({"eos_token": known[record.eos[0]]} if record.eos[0] in known else {}),
    }
    place = named.get(image, PLACE)
    if template := _template(record, place, 1 if counted else record.image_span[1]):
        config["chat_template"] = template
    return Texts(tokenizer, config, place, image)


def _template(record: GenerationRecord, place: str, count: int) -> str:
    """A Jinja template of one turn with one image, of so many placeholders; empty where the bundle does not say it."""
    if record.attention == "cross":
        return ""
    before, after, question = place, "", "asked"
    if record.prompt is not None:
        before, after = record.prompt.before, record.prompt.after
        question = "asked | trim" if record.prompt.strips else "asked"
    elif record.image_span[0] > 1:
        return ""
    before = before.replace(place, place * count)
    return (
        "{%- set content = messages[-1]['content'] -%}"
        "{%- set said = namespace(text='') -%}"
        "{%- if content is string -%}{%- set said.text = content -%}{%- else -%}"
        "{%- for part in content -%}{%- if part['type'] == 'text' -%}"
        "{%- set said.text = said.text + part['text'] -%}{%- endif -%}{%- endfor -%}{%- endif -%}"
        f"{{%- set asked = said.text -%}}{{{{ {_quoted(before)} }}}}{{{{ {question} }}}}{{{{ {_quoted(after)} }}}}"
    )


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _known(tokenizer: dict[str, Any]) -> dict[int, str]:
    """Id -> token of a vocabulary, which is a table, or for Unigram a list of pairs."""
    table = tokenizer.get("model", {}).get("vocab", {})
    if isinstance(table, dict):
        return {i: token for token, i in table.items()}
    return {i: pair[0] for i, pair in enumerate(table)}


def _special(number: int, token: str) -> dict[str, Any]:
    marks = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {"id": number, "content": token, **marks}


def _of_words(words: Words) -> dict[str, Any]:
    """A list of words as a tokenizer.json: one id a word, punctuation apart, `bos` in front."""
    table = {word: i for i, word in enumerate(words.words)}
    special = sorted({words.pad, words.bos, *words.eos})
    replaced = [
        {"type": "Replace", "pattern": {"Regex": rf"\b{spelling}\b"}, "content": word}
        for spelling, word in words.spellings.items()
    ]
    bos = words.words[words.bos]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [_special(i, words.words[i]) for i in special],
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "Lowercase"}, *replaced]},
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [{"type": "WhitespaceSplit"}, {"type": "Punctuation", "behavior": "Isolated"}],
        },
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": bos, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
            "special_tokens": {bos: {"id": bos, "ids": [words.bos], "tokens": [bos]}},
        },
        "decoder": None,
        # A word that is not known has no id: a guess would answer another question.
        "model": {"type": "WordLevel", "vocab": table, "unk_token": "<unk>"},
    }
