"""A tokenizer.json made by hand, of the kind that Whisper has: bytes, merges, and special ids behind them."""

from __future__ import annotations

import json
from typing import Any

SPECIAL = ("<|endoftext|>", "<|startoftranscript|>", "<|notimestamps|>")


def tokenizer_json(words: str = "hello world this is a small test", size: int = 280) -> dict[str, Any]:
    """The file's content: 256 bytes, merges up to `size` ids, and `SPECIAL` behind them."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator([f" {words}"] * 3, trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL])
    tokenizer.add_tokens([AddedToken("<|0.00|>", special=False)])
    data: dict[str, Any] = json.loads(tokenizer.to_str())
    return data
