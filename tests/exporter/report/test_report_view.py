"""What the page says: every fact of the export, and nothing that it does not know."""

from __future__ import annotations

import pytest
from report_case import check, gathered, page

ACCURACY = {
    "questions": 64,
    "metric": "words right (1 - WER)",
    "compressed": 0.9,
    "stderr": 0.02,
    "uncompressed": 1.0,
    "baselines": {
        "random": {"mean": 0.5, "deviation": 0.1, "seeds": 10},
        "uniform": {"accuracy": 0.6},
        "resolution": {"keep": 3, "accuracy": 0.65},
        "pool": {"keep": 4, "accuracy": 0.7},
        "oracle": {"accuracy": 0.8, "merged": 0.9},
    },
}


def test_failed_checks_come_first_and_the_verdict_is_the_gate_that_failed():
    checks = [check("head"), check("tail", ok=False), check("decode")]
    said = gathered(proof={"checks": checks}, failure="1 of 3 checks failed")
    assert [found["part"] for found in said.checks] == ["tail", "head", "decode"]
    assert (said.status, said.verdict) == ("failed", "1 of 3 checks failed")
    assert [(part.name, part.worst["ok"]) for part in said.proof] == [("tail", False), ("head", True), ("decode", True)]
    text = page(proof={"checks": checks}, failure="1 of 3 checks failed")
    assert "<strong>FAILED</strong>1 of 3 checks failed" in text and "needs cosine &gt;= 0.9999" in text


def test_an_accuracy_gate_fails_the_page_although_every_check_passed():
    said = gathered(proof={"checks": [check()]}, accuracy=ACCURACY, failure="accuracy 0.9 is below --min-accuracy 0.95")
    assert said.status == "failed" and "0.95" in said.verdict


def test_without_a_proof_the_page_says_not_verified():
    said = gathered()
    assert said.status == "unverified" and not said.checks
    assert "<strong>NOT VERIFIED</strong>" in page() and "Nothing was proved" in page()
    assert "NOT VERIFIED" not in page(proof={"checks": [check()]})


def test_the_verdict_names_the_parts_that_were_proved():
    said = gathered(proof={"checks": [check("head"), check("head"), check("tail")]})
    assert said.status == "proved" and said.verdict.endswith(": head, tail.")
    assert [name for name, _ in said.parts] == ["head", "tail"]


def test_beside_the_proof_stands_whether_it_is_of_use():
    assert gathered(accuracy=ACCURACY).usefulness.status == "useful"
    worse = page(proof={"checks": [check()]}, accuracy={**ACCURACY, "compressed": 0.4})
    assert 'class="status worse"' in worse and "<strong>WORSE THAN CHANCE</strong>Worse than random tokens" in worse
    assert "<strong>USE UNKNOWN</strong>Not measured" in page(proof={"checks": [check()]})


def test_every_baseline_that_was_measured_has_its_bar():
    bars = {bar.label: bar for bar in gathered(accuracy=ACCURACY).bars}
    assert list(bars) == ["uncompressed", "apet", "random", "uniform", "resolution", "pool", "oracle", "oracle, merged"]
    assert (bars["apet"].text, bars["random"].text, bars["pool"].text) == ("90.0% ± 2.0%", "50.0% ± 10.0%", "70.0%")
    assert (bars["random"].at(), bars["random"].at(-1), bars["random"].at(1)) == (500, 400, 600)
    assert bars["resolution"].text == "65.0%" and "smaller picture" in bars["resolution"].note
    assert "gives 3 tokens" in bars["resolution"].note
    assert "4-token" in bars["pool"].note and "10 seeds" in bars["random"].note
    text = page(accuracy=ACCURACY)
    assert "words right (1 - WER), on 64 questions" in text and 'width="900.0"' in text


def test_the_bar_of_the_uncompressed_model_says_that_it_is_no_graph():
    (whole, *others) = gathered(accuracy=ACCURACY).bars
    assert "PyTorch" in whole.note and not any("PyTorch" in bar.note for bar in others)


def test_parameters_that_are_not_set_are_left_out():
    assert dict(gathered(method="pool").facts)["Parameters"] == "mode=average"
    assert dict(gathered(method="uniform").facts)["Parameters"] == "none"


def test_only_what_was_measured_has_a_bar():
    bare = {"questions": 8, "compressed": 0.5, "uncompressed": 1.0}
    assert [bar.label for bar in gathered(accuracy=bare).bars] == ["uncompressed", "apet"]
    assert 'id="accuracy"' not in page() and 'id="accuracy"' in page(accuracy=bare)


def test_a_word_error_above_one_draws_no_bar_to_the_left():
    bar = gathered(accuracy={"questions": 8, "compressed": -0.25, "uncompressed": 1.0}).bars[1]
    assert bar.at() == 0 and bar.text == "-25.0%"


def test_bf16_is_judged_by_the_gates_of_its_fp32_reference_build_and_says_so():
    said = gathered(precision="bf16", proof={"checks": [check()]})
    assert "0.9999" in said.gates and "reference build" in said.judged
    assert "0.999," in gathered(precision="fp16", proof={"checks": [check()]}).gates


@pytest.mark.parametrize(
    ("how", "wanted"),
    [
        ({}, "tokexport model model --method apet --ratio 0.75 --precision fp32"),
        ({"keep": 4}, "tokexport model model --method apet --keep 4 --precision fp32"),
        ({"kind": "onnx"}, "tokexport model model.onnx --method apet --ratio 0.75 --precision fp32"),
        (
            {"params": {"basis": 3}, "seam": "tensor:x y", "size_bias": "off"},
            "tokexport model model --method apet --ratio 0.75 --seam 'tensor:x y' --set basis=3 --precision fp32 "
            "--size-bias off",
        ),
    ],
)
def test_the_command_that_makes_it_repeats_what_was_asked(how, wanted):
    assert dict(gathered(**how).commands)["make it"] == wanted


def test_the_command_that_runs_it_fits_what_the_bundle_has():
    commands = dict(gathered(name="a b").commands)
    assert commands["prove it again, here or on another machine, without PyTorch"] == "tokexport verify 'a b'"
    assert "--prompt" not in str(commands) and "encode" in commands["run its encoder"]


def test_the_size_bias_says_why_it_is_off():
    facts = [dict(gathered(**how).facts)["Size bias"] for how in ({}, {"size_bias": "off"}, {"method": "topk"})]
    assert "add log(sizes)" in facts[0] and "as asked" in facts[1] and "nothing is merged" in facts[2]
