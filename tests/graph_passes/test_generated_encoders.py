"""Small encoders in as many spellings as there are: each is compressed and right, or refused with place and cure."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx_ir as ir
import pytest
from exported_models import example, exported, run
from hypothesis import HealthCheck, given, settings
from spelled_check import outcome
from spelled_tools import worked_on
from spelled_writer import without_some_names
from spellings import Spelling, spellings
from tokexport.errors import TokexportError
from tokexport.graph_passes.compress import compress

# The same cases on every machine, and no file beside the tests.
FIXED = settings(derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck))
SIMPLIFIED = ("onnxslim", "onnxsim", "basic", "extended")
QUANTISED = ("dynamic", "qdq")


# Cases that only the many found: each was wrong, or crashed, before its kind was mended.
FOUND = (
    Spelling(opset=23, batch="batch", prefix="tile", position="input", norm="decomposed", post_norm=True,
             linear="bias first", shapes="arithmetic", keys="two transposes", scale="query", gelu="operator", layers=3,
             drop="slice", names="partial dynamo", annotated=True, method="tome", cut=0.85, seed=3),
    Spelling(opset=21, stem="frames", prefix="tile", norm="decomposed", shapes="arithmetic", keys="two transposes",
             scale="query", gelu="operator", mask="attention_mask", drop="slice", projector=False, annotated=True,
             names="partial torchscript", method="tome-keys", assume_no_padding=True, cut=0.95, gap=0.05, seed=3),
    Spelling(batch="batch", prefix="tile", layers=1, drop="slice", extra="features", method="pool"),
    Spelling(opset=22, batch="batch", stem="features", prefix="expand", position="input", layout="NBD", post_norm=True,
             final_norm=False, linear="gemm", shapes="constant", layers=3, drop="slice", annotated=True),
    Spelling(shapes="constant", mask="attention_mask", layers=1, half="all", tool="basic"),
    Spelling(opset=23, batch=3, prefix="two", norm="decomposed", post_norm=True, final_norm=False, linear="gemm",
             shapes="arithmetic", attention="operator", gelu="relu", mask="lengths", layers=1, mixed=True,
             assume_no_padding=True, tool="extended", seed=1),
    Spelling(layers=1, method="tome-keys", tool="half"),
    Spelling(opset=18, stem="image", post_norm=True, scale="logits", layers=1, method="tome-keys", cut=0.1, gap=-1.0,
             tool="half"),
    Spelling(opset=17, batch=3, stem="image", layout="NBD", post_norm=True, scale="logits", layers=1, method="topk",
             tool="extended"),
    Spelling(opset=17, stem="image", prefix="expand", norm="decomposed", post_norm=True, scale="logits", layers=2,
             names="partial torchscript", method="topk", cut=0.85, gap=0.05),
    Spelling(opset=18, batch=3, stem="image", position="input", norm="decomposed", post_norm=True, final_norm=False,
             scale="query", layers=2, projector=False, extra="count", half="all", method="topk", cut=0.3, gap=1.0,
             seed=3),
    Spelling(opset=17, stem="image", prefix="parameter", position="table", norm="decomposed", post_norm=True,
             scale="logits", layers=2, drop="slice", projector=False, names="partial torchscript", method="topk",
             cut=0.85, gap=0.05),
    Spelling(opset=17, stem="image", layout="NBD", layers=1, method="topk", seam="encoder_layer:0", cut=0.1, gap=-1.0),
)  # fmt: skip


def share_compressed(examples: int, *tools: str) -> float:
    """Try that many spellings after any of `tools`; the share of them that was not refused."""
    seen: Counter[str] = Counter()

    @settings(FIXED, max_examples=examples)
    @given(spellings(tools))
    def each(spelling: Spelling) -> None:
        seen[outcome(spelling)] += 1

    each()
    return seen["equal"] / seen.total()


@pytest.mark.parametrize("spelling", FOUND)
def test_what_was_wrong_once_is_right_or_refused(spelling: Spelling) -> None:
    assert outcome(spelling)


def test_what_an_exporter_writes_is_compressed_rightly_or_refused() -> None:
    assert share_compressed(360, "") > 0.3


def test_what_a_simplifier_leaves_is_compressed_rightly_or_refused() -> None:
    pytest.importorskip("onnxslim")
    pytest.importorskip("onnxsim")
    assert share_compressed(80, *SIMPLIFIED) > 0.15


def test_what_a_quantiser_leaves_is_compressed_rightly_or_refused() -> None:
    assert share_compressed(40, *QUANTISED) > 0


def test_a_graph_of_two_precisions_is_compressed_rightly_or_refused() -> None:
    assert share_compressed(30, "half") > 0.1


@pytest.mark.parametrize("dynamo", [True, False])
@pytest.mark.parametrize("kind", ["llava", "whisper"])
@pytest.mark.parametrize("tool", ["", *SIMPLIFIED, "dynamic"])
def test_a_real_export_keeps_whole_tokens_after_a_tool_and_without_names(kind: str, dynamo: bool, tool: str) -> None:
    pytest.importorskip("onnxslim")
    pytest.importorskip("onnxsim")
    for share in (0.0, 0.6):
        model = ir.to_proto(exported(kind, dynamo=dynamo))
        without_some_names(model, share, 1.0)
        feeds = {model.graph.input[0].name: example(kind)}
        model = worked_on(model, Spelling(tool=tool), feeds)
        whole = run(ir.from_proto(model), feeds)[0]
        try:
            small = compress(ir.from_proto(model), "divprune", keep=5)
        except TokexportError as error:
            assert tool in ("extended", "dynamic") and error.fix, error
            continue
        tokens, kept = run(small, feeds)[:2]
        np.testing.assert_allclose(tokens[0], whole[0, kept[0]], rtol=1e-3, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    "tools, examples", [(("",), 14_500), (SIMPLIFIED, 4_000), (QUANTISED, 1_000), (("half",), 500)]
)
def test_twenty_thousand_spellings(tools: tuple[str, ...], examples: int) -> None:
    assert share_compressed(examples, *tools) > 0
