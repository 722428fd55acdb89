"""`tokexport model --device`: what is chosen for a device, what is refused, and where that is recorded."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper, parser
from tokexport.devices.profiles import target
from tokexport.errors import GraphError, RequestError
from tokexport.exporter.bundling import device_fit
from tokexport.exporter.cli import main
from tokexport.runtimes.bundle.reader import open_bundle

NANO = "orin-nano-8gb"
HEADER = '<ir_version: 10, opset_import: ["" : 18]>\n'


def ranked(k: int) -> ir.Model:
    text = f"""g (float[1,5000] x) => (float[1,{k}] y) <int64[1] k = {{{k}}}> {{ y, i = TopK (x, k) }}"""
    model = ir.from_proto(onnx.shape_inference.infer_shapes(parser.parse_model(HEADER + text)))
    next(iter(model.graph)).name = "rank"
    return model


def foreign(path: Path, k: int) -> Path:
    """tokens [1, 12, 8] -> projector, and beside it the k best of 5000 scores."""
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("Tanh", ["x"], ["features"], name="body"),
        helper.make_node("MatMul", ["features", "w"], ["y"], name="projector"),
        helper.make_node("TopK", ["scores", "k"], ["best", "where"], name="rank"),
    ]
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "foreign",
        [info("x", TensorProto.FLOAT, [1, 12, 8]), info("scores", TensorProto.FLOAT, [1, 5000])],
        [info("y", TensorProto.FLOAT, [1, 12, 4]), info("best", TensorProto.FLOAT, [1, k])],
        [
            helper.make_tensor("w", TensorProto.FLOAT, [8, 4], rng.standard_normal(32).astype(np.float32)),
            helper.make_tensor("k", TensorProto.INT64, [1], [k]),
        ],
        value_info=[info("features", TensorProto.FLOAT, [1, 12, 8])],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path


def command(*arguments: object):
    return CliRunner().invoke(main, list(map(str, arguments)))


def test_without_a_device_nothing_changes():
    assert device_fit.target(None) is None
    assert device_fit.precision(None, None) == ("fp32", []) and device_fit.precision(None, "bf16") == ("bf16", [])
    assert device_fit.fit(None, {"encoder": ranked(3841)}) == (None, [])


def test_a_precision_that_was_not_asked_for_is_chosen_and_told():
    chosen, notes = device_fit.precision(target(NANO), None)
    assert chosen == "fp16" and len(notes) == 1 and "no --precision was given" in notes[0]
    kept, notes = device_fit.precision(target(NANO), "fp32")
    assert kept == "fp32" and "fp32 as asked; fp16 is recommended" in notes[0]
    assert device_fit.precision(target(NANO), "fp16") == ("fp16", [])


def test_a_precision_that_the_device_has_not_is_refused():
    goal = target(NANO)
    lacking = goal.profile.model_copy(update={"figures": {**goal.profile.figures, "bf16": goal.profile.figures["fp8"]}})
    with pytest.raises(RequestError, match=r"does not compute in bf16.*compute capability 8\.7.*--precision fp16"):
        device_fit.precision(type(goal)(lacking, goal.stack), "bf16")


def test_topk_of_3840_passes_and_of_3841_is_refused_with_its_node():
    record, notes = device_fit.fit(target(NANO), {"encoder": ranked(3840)})
    assert record.forms == {"encoder": ["portable", "plugin"]} and notes == []
    with pytest.raises(GraphError, match=r"TopK 'rank': TopK takes K up to 3840") as error:
        device_fit.fit(target(NANO), {"encoder": ranked(3841)})
    assert "Change that node" in str(error.value) and "--device orin-nano-8gb@10.16" in str(error.value)


def test_tensorrt_8_5_is_refused_for_each_form_with_its_own_reason():
    model = compressed()
    with pytest.raises(GraphError) as error:
        device_fit.fit(target(f"{NANO}@8.5"), {"encoder": model})
    text = str(error.value)
    assert "opset 18" in text and "portable form: function" in text
    assert "plugin form: tokexport.TokexportKcenterMerge" in text
    assert "IPluginV3" in text and "--device orin-nano-8gb@10.3" in text and "that node" not in text


def compressed(method: str = "kcenter_merge") -> ir.Model:
    import tokexport

    text = "g (float[1,12,8] x) => (float[1,12,8] y) { f = Tanh (x) y = Neg (f) }"
    proto = onnx.shape_inference.infer_shapes(parser.parse_model(HEADER + text))
    return tokexport.compress(ir.from_proto(proto), method=method, keep=4, seam="tensor:f")


def test_a_method_without_a_plugin_has_the_portable_form_alone():
    record, notes = device_fit.fit(target(NANO), {"encoder": compressed("dpc_knn")})
    assert record.forms == {"encoder": ["portable"]} and notes == []


def test_a_fixed_method_has_a_plugin_form_that_keeps_the_rules_of_its_body():
    model = compressed("uniform")
    record, notes = device_fit.fit(target(NANO), {"encoder": model})
    assert record.forms == {"encoder": ["portable", "plugin"]} and notes == []
    (function,) = model.functions.values()
    next(iter(function)).op_type = "Compress"
    with pytest.raises(GraphError, match="cannot run the encoder: Compress"):
        device_fit.fit(target(NANO), {"encoder": model})


def test_a_rule_that_only_the_body_breaks_leaves_the_plugin_form():
    model = compressed()
    (function,) = model.functions.values()
    body = next(iter(function))
    body.op_type = "Compress"
    record, notes = device_fit.fit(target(NANO), {"encoder": model})
    assert record.forms == {"encoder": ["plugin"]}
    assert len(notes) == 1 and "the portable form of encoder is not for it: Compress" in notes[0]


def test_what_does_not_fit_the_memory_is_refused_and_what_is_tight_is_told():
    def of(gib: float) -> ir.Model:
        rows = int(gib * 2**30 / 4 / 1024)
        text = f"g (float[{rows},1024] x) => (float[1] y) {{ y = Constant <value = float[1] {{0}}> () }}"
        return ir.from_proto(parser.parse_model(HEADER + text))

    with pytest.raises(GraphError, match=r"has 7\.60 GiB of memory \(shared.*at least 9\.00 GiB: prefill 9\.00 GiB"):
        device_fit.fit(target(NANO), {"prefill": of(9)})
    with pytest.raises(GraphError, match=r"at least 10\.00 GiB: encoder 5\.00 GiB, prefill 5\.00 GiB"):
        device_fit.fit(target(NANO), {"encoder": of(5), "prefill": of(5)})
    _, notes = device_fit.fit(target(NANO), {"encoder": of(5)})
    assert len(notes) == 1 and "may not fit" in notes[0]
    assert device_fit.fit(target("rtx-4090"), {"encoder": of(5)})[1] == []


def test_the_command_refuses_a_foreign_file_and_names_the_node(tmp_path):
    file = foreign(tmp_path / "foreign.onnx", 3841)
    arguments = ("model", file, "--method", "uniform", "--keep", 5, "--seam", "tensor:features", "-o", tmp_path / "out")
    refused = command(*arguments, "--device", NANO, "--precision", "fp32")
    assert refused.exit_code == 2 and "TopK 'rank'" in refused.output and "3840" in refused.output
    assert not (tmp_path / "out").exists()
    assert command(*arguments).exit_code == 0


def test_the_command_fits_says_so_and_records_it(tmp_path):
    file = foreign(tmp_path / "foreign.onnx", 3840)
    arguments = ("model", file, "--method", "uniform", "--keep", 5, "--seam", "tensor:features", "-o", tmp_path / "out")
    done = command(*arguments, "--device", NANO, "--json")
    assert done.exit_code == 0, done.output
    data = json.loads(done.stdout)
    assert data["precision"] == "fp16" and data["device"]["name"] == NANO
    assert any("no --precision was given" in note for note in data["notes"])
    opened = open_bundle(tmp_path / "out")
    record = opened.variant().device
    assert record is not None and (record.version, record.forms) == ("10.3", {"encoder": ["portable", "plugin"]})
    assert opened.graph("encoder").precision == "fp16"
    assert record.memory > 2 * 5000
    assert any("no --precision was given" in note for note in opened.manifest.parity["notes"])


@pytest.mark.parametrize("name", ["orin-nano", "orin-nano-8gb@3"])
def test_an_unknown_device_is_named_before_anything_is_opened(name, tmp_path):
    done = command("model", "nowhere.onnx", "--method", "apet", "--ratio", "0.5", "--device", name)
    assert done.exit_code == 2 and "orin-nano-8gb" in done.output and "nowhere" not in done.output
