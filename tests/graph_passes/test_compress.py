from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import onnx_ir as ir
import pytest
from tokexport.errors import GraphError, RequestError
from tokexport.graph_passes.compress import compress
from tokexport.graph_passes.ir_tools.model_io import save_model
from toy_vit import run, text, toy_vit

SEAM = "tensor:patches"


def small(**options: object) -> dict[str, np.ndarray]:
    return run(compress(toy_vit(), "uniform", seam=SEAM, **options))  # type: ignore[call-overload, arg-type]


def budget(options: dict[str, object]) -> dict[str, object]:
    """A budget, where `options` has none."""
    return {} if {"keep", "ratio"} & {*options} else {"ratio": 0.85}


def test_nothing_is_guessed() -> None:
    with pytest.raises(RequestError, match="neither ratio nor keep"):
        small()
    with pytest.raises(RequestError, match=r"neither a method nor a recipe.*kcenter_merge"):
        compress(toy_vit(), keep=4)
    assert small(ratio=0.85)["out"].shape == (1, 2, 12)


def test_ratio_is_an_exact_fraction() -> None:
    assert small(ratio="7/8")["out"].shape == (1, 2, 12)
    assert small(ratio=0.5)["kept_indices"].tolist() == [[1, 3, 5, 7, 9, 11, 13, 15]]


def test_keep_is_exclusive_with_a_ratio() -> None:
    assert small(keep=7)["out"].shape == (1, 7, 12)
    with pytest.raises(RequestError, match="both ratio and keep"):
        small(keep=7, ratio=0.85)


def test_ir_model_is_not_changed_and_shares_its_weights() -> None:
    model = toy_vit()
    before = text(model)
    result = compress(model, "uniform", keep=4, seam=SEAM)
    assert text(model) == before
    assert result.graph.initializers["wp1"].const_value is model.graph.initializers["wp1"].const_value


def test_every_kind_of_model_comes_back_as_its_kind_and_agrees(tmp_path: Path) -> None:
    model = toy_vit()
    proto = ir.to_proto(model)
    before = proto.SerializeToString(deterministic=True)
    save_model(model, tmp_path / "toy.onnx", "toy.onnx.data")
    surgeon = gs.import_onnx(proto)
    wanted = run(compress(model, "uniform", keep=4, seam=SEAM))
    from_proto = compress(proto, "uniform", keep=4, seam=SEAM)
    from_surgeon = compress(surgeon, "uniform", keep=4, seam=SEAM)
    from_path = compress(str(tmp_path / "toy.onnx"), "uniform", keep=4, seam=SEAM)
    assert isinstance(from_proto, onnx.ModelProto)
    assert isinstance(from_surgeon, gs.Graph)
    assert isinstance(from_path, ir.Model)
    save_model(from_path, tmp_path / "small.onnx")
    for result in (from_proto, gs.export_onnx(from_surgeon), onnx.load(tmp_path / "small.onnx")):
        results = run(ir.from_proto(result))
        for name, array in wanted.items():
            np.testing.assert_array_equal(results[name], array)
    assert proto.SerializeToString(deterministic=True) == before
    assert len(surgeon.nodes) == len(model.graph) and len(surgeon.outputs) == 1


@pytest.mark.parametrize("form", ["plugin", "inlined"])
def test_other_forms(form: str) -> None:
    result = compress(toy_vit(), "kcenter_merge", keep=4, seam=SEAM, form=form)
    assert not result.functions
    kinds = [node.op_type for node in result.graph if node.domain == "tokexport"]
    assert kinds == (["TokexportKcenterMerge"] if form == "plugin" else [])
    if form == "inlined":
        portable = compress(toy_vit(), "kcenter_merge", keep=4, seam=SEAM)
        np.testing.assert_array_equal(run(result)["out"], run(portable)["out"])


def test_parameters_and_outputs_are_passed_on() -> None:
    result = compress(toy_vit(), "apet", keep=6, seam=SEAM, params={"basis": "3"}, outputs={"sizes": "token_sizes"})
    assert [v.name for v in result.graph.outputs] == ["out", "token_sizes"]
    assert run(result)["token_sizes"].shape == (1, 6)


def test_size_bias_can_be_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    from tokexport.graph_passes.insertion import sequence
    from toy_vit import encoder_output

    monkeypatch.setattr(
        sequence, "resolve", lambda *a: encoder_output(name="encoder_layer:0", tensor="h1", signals={}, grid=None)
    )
    on = run(compress(toy_vit(), "kcenter_merge", keep=5))
    off = run(compress(toy_vit(), "kcenter_merge", keep=5, size_bias="off"))
    assert not np.array_equal(on["out"], off["out"])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"method": "nonsense"}, "nonsense"),
        ({"form": "compact"}, "portable"),
        ({"size_bias": "on"}, "auto or off"),
        ({"keep": 0}, "outside 1..16"),
        ({"ratio": 85}, "outside (0, 1)"),
        ({"seam": "tensor:nowhere"}, "nowhere"),
        ({"outputs": ("places",)}, "places"),
    ],
)
def test_bad_requests(options: dict[str, object], words: str) -> None:
    with pytest.raises(RequestError) as caught:
        compress(toy_vit(), **{"method": "uniform", "seam": SEAM, **budget(options), **options})  # type: ignore[call-overload]
    assert words in str(caught.value)


def test_not_a_model() -> None:
    with pytest.raises(RequestError, match="dict is not a model"):
        compress({}, "uniform")  # type: ignore[call-overload]
    with pytest.raises(GraphError, match="does not exist"):
        compress("/nowhere.onnx", "uniform")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"keep": "5"}, "keep '5' is not a whole number"),
        ({"seam": 3}, "seam 3 is not a name"),
        ({"params": 3}, "params 3 is not a mapping"),
        ({"params": {3: 1}}, "no parameter 3"),
        ({"method": 3}, "unknown method 3"),
        ({"outputs": "sizes"}, "outputs 'sizes' is not a list"),
        ({"outputs": None}, "outputs None is not a list"),
        ({"outputs": {"sizes": ""}}, "output without a name"),
        ({"outputs": {"sizes": 3}}, "output without a name"),
    ],
)
def test_arguments_of_a_wrong_type_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        compress(toy_vit(), **{"method": "uniform", "seam": SEAM, **budget(options), **options})  # type: ignore[arg-type]
