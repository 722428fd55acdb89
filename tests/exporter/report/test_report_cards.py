"""What a bundle loses and saves, as the page and the command say it."""

from __future__ import annotations

from pathlib import Path

import pytest
from report_case import check, gathered, page
from tokexport.exporter import render
from tokexport.exporter.report.cards import cards
from tokexport.exporter.report.curve import curve
from tokexport.exporter.result import Exported

ACCURACY = {"questions": 64, "compressed": 0.9, "stderr": 0.02, "uncompressed": 0.95}
CHANCE = {"random": {"mean": 0.5, "deviation": 0.1, "seeds": 10}}
ENCODER = {"uncompressed_ms": 30.0, "encoder_ms": 20.0, "compressor_ms": 1.0, "first_token_ms": 20.0}
COST = {**ENCODER, "prefill_ms": None, "token_ms": None, "cache_bytes": 0, "uncompressed_cache_bytes": 0}
LANGUAGE = {"prefill_ms": 5.0, "token_ms": 1.25, "first_token_ms": 25.0, "cache_bytes": 2_000_000}


def exported(tokens: int = 4, **how) -> Exported:
    compression = [{"tokens_in": 16, "tokens_out": tokens, "method": "apet"}]
    return Exported(Path("b"), "model", "fp32", compression, **how)


def test_loss_stands_beside_what_it_buys():
    told = dict(cards(exported(accuracy=ACCURACY, cost=COST), [16, 4], 1_500_000))
    assert told["16 → 4"] == "tokens, 75.0% removed"
    assert told["-5.0"] == "points: 90.0% answers right, uncompressed 95.0%"
    assert told["1.50x"] == "speed of the encoder: 20 ms, uncompressed 30 ms"
    assert told["1.5 MB"] == "on disk" and len(told) == 4


def test_a_gain_has_its_sign():
    assert cards(exported(accuracy={**ACCURACY, "compressed": 0.96}), [16, 4], 1)[1][0] == "+1.0"


def test_a_language_model_has_its_first_token_and_its_cache():
    told = dict(cards(exported(cost={**COST, **LANGUAGE, "uncompressed_cache_bytes": 9_000_000}), [16, 4], 1))
    assert told["25 ms"] == "to the first token: encoder 20 ms, prefill 5 ms; each further 1.25 ms"
    assert told["4.5x less"] == "KV cache: 2 MB, uncompressed 9 MB"


def test_what_was_not_measured_is_not_said_to_be_nothing():
    told = dict(cards(exported(), [16, 4], 1))
    assert told["?"].startswith("loss: not measured") and "x" not in "".join(told)


@pytest.mark.parametrize(("number", "text"), [(0.1234, "0.123 ms"), (12.34, "12.3 ms"), (1234.0, "1.23 s")])
def test_times_have_three_digits(number, text):
    assert render.milliseconds(number) == text


def test_the_worst_tensor_of_each_part_is_its_row():
    checks = [check("head", cosine=0.9999), check("tail", cosine=0.99995), check("tail", ok=False, cosine=0.2)]
    said = gathered(proof={"checks": checks}, failure="1 of 3 checks failed")
    assert [(part.name, part.tensors, part.worst["cosine"]) for part in said.proof] == [
        ("tail", 2, 0.2), ("head", 1, 0.9999),
    ]  # fmt: skip
    assert "<summary>All 3 checks</summary>" in page(proof={"checks": checks}, failure="1 of 3 checks failed")


def test_oracles_stand_apart():
    text = page(accuracy={**ACCURACY, "baselines": {**CHANCE, "oracle": {"accuracy": 0.8, "merged": 0.9}}})
    assert text.index(">random<") < text.index("Oracles, which know") < text.index(">oracle<")
    assert "Oracles" not in page(accuracy={**ACCURACY, "baselines": CHANCE})


def test_accuracy_comes_before_the_pictures():
    text = page(accuracy=ACCURACY)
    assert text.index('id="accuracy"') < text.index('id="tokens"')


def test_variants_are_a_curve_of_accuracy_against_tokens():
    results = [
        exported(n, accuracy={**ACCURACY, "compressed": own, "baselines": CHANCE}) for n, own in ((8, 0.94), (4, 0.9))
    ]
    drawn = curve(results)
    assert drawn is not None
    assert drawn.label == "Accuracy against tokens: 90.0% with 4 tokens, 94.0% with 8 tokens; uncompressed 95.0%"
    assert drawn.markup.count("<circle") == 4 and "uncompressed 95.0%" in drawn.markup
    assert curve(results[:1]) is None and curve([exported(), exported()]) is None
