"""Which encoders of a bundle are windows of one another."""

from __future__ import annotations

from typing import Any

import pytest
import toy_speech
from tokexport.runtimes.bundle.manifest import CompressionRecord, Manifest, SeamRecord, SourceRecord, Variant
from tokexport.runtimes.bundle.media_records import LogMelRecord
from tokexport.runtimes.windows import shortest, windows


def variant(name: str, seconds: int | None, **changed: Any) -> Variant:
    seam = SeamRecord(kind=changed.pop("kind", "encoder_output"), graph="encoder", tensor="tokens")
    given = {"method": "toy", "ratio": "0.5", "tokens_in": 2 * (seconds or 30), "tokens_out": seconds or 30}
    record = CompressionRecord(**{**given, "size_bias": True, "seam": seam, **changed})
    sound = None if seconds is None else log_mel(seconds)
    return Variant(name=name, compression=[record], graphs={}, generation=toy_speech.generation(), preprocess=sound)


def log_mel(seconds: int) -> LogMelRecord:
    return LogMelRecord(kind="log_mel", sample_rate=100, n_fft=10, hop=1, mels=8, frames=seconds * 100)


def found(*variants: Variant, own: int = 0) -> list[tuple[str, float, bool]]:
    manifest = Manifest(
        tokexport="0.1.0",
        source=SourceRecord(kind="checkpoint", name="toy"),
        files={},
        variants=list(variants),
        preprocess=log_mel(30),
    )
    return [(one.variant, one.room / 100, one.safe) for one in windows(manifest, variants[own])]


def test_windows_stand_in_order_and_keep_silence() -> None:
    whole, ten, five = variant("whole", None), variant("ten", 10), variant("five", 5)
    assert found(whole, ten, five) == [("five", 4, False), ("ten", 9, True), ("whole", 30, True)]


def test_a_window_keeps_silence_where_the_whole_one_is_not_in_the_bundle() -> None:
    assert found(variant("ten", 10)) == [("ten", 9, True)]


@pytest.mark.parametrize(
    "other",
    [{"method": "pool"}, {"ratio": "0.75", "tokens_out": 3}, {"params": {"k": 1}}, {"size_bias": False},
     {"kind": "encoder_layer:1"}],
)  # fmt: skip
def test_other_compressions_are_no_windows(other: dict[str, Any]) -> None:
    both = variant("whole", None), variant("other", 10, **other)
    assert [name for name, *_ in found(*both)] == ["whole"]
    assert [name for name, *_ in found(*both, own=1)] == ["other"]


def test_the_same_number_of_tokens_is_the_same_compression() -> None:
    assert len(found(variant("whole", None), variant("ten", 10, ratio="0.2", tokens_out=30))) == 2


def test_where_no_window_is_safe_the_longest_reads() -> None:
    manifest = Manifest(
        tokexport="0.1.0",
        source=SourceRecord(kind="checkpoint", name="toy"),
        files={},
        variants=[variant("three", 3), variant("five", 5)],
        preprocess=log_mel(30),
    )
    made = windows(manifest, manifest.variants[0])
    assert shortest(made, 100).variant == shortest(made, 3000).variant == "five"
