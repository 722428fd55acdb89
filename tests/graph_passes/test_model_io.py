from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from tokexport.errors import GraphError
from tokexport.graph_passes.ir_tools.model_io import convert_command, ensure_opset, load_model, save_model


def weighty(opset: int = 18, ir_version: int = 8) -> ir.Model:
    head = f'<ir_version: {ir_version}, opset_import: ["" : {opset}]>'
    proto = onnx.parser.parse_model(head + " g (float[2,32] x) => (float[2,16] y) { y = MatMul(x, w) }")
    weights = np.arange(512, dtype=np.float32).reshape(32, 16)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(weights, "w"))
    return ir.from_proto(proto)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save_model(weighty(), tmp_path / "m.onnx", "m.onnx.data")
    return tmp_path / "m.onnx"


def test_weights_stay_on_disk_and_come_back_equal(saved: Path) -> None:
    model = load_model(saved)
    tensor = model.graph.initializers["w"].const_value
    assert isinstance(tensor, ir.ExternalTensor)
    assert tensor.raw is None, "loading maps no file"
    np.testing.assert_array_equal(tensor.numpy(), np.arange(512, dtype=np.float32).reshape(32, 16))
    assert saved.stat().st_size < 1024 < saved.with_suffix(".onnx.data").stat().st_size


def test_small_tensors_stay_in_the_graph(tmp_path: Path) -> None:
    model = weighty()
    small = ir.tensor(np.arange(4), name="s")
    model.graph.register_initializer(ir.Value(name="s", const_value=small, shape=small.shape))
    save_model(model, tmp_path / "m.onnx", "m.data")
    assert not isinstance(load_model(tmp_path / "m.onnx").graph.initializers["s"].const_value, ir.ExternalTensor)


def test_saving_leaves_the_model_as_it_was(tmp_path: Path) -> None:
    model = weighty()
    before = model.graph.initializers["w"].const_value
    save_model(model, tmp_path / "m.onnx", "m.data")
    assert model.graph.initializers["w"].const_value is before


def test_a_copy_beside_reads_the_first_data_file(saved: Path, tmp_path: Path) -> None:
    save_model(load_model(saved), tmp_path / "copy.onnx", "copy.data")
    saved.with_suffix(".onnx.data").unlink()
    assert load_model(tmp_path / "copy.onnx").graph.initializers["w"].const_value.numpy()[31, 15] == 511  # type: ignore[union-attr]


def test_data_name_is_a_plain_file_name(tmp_path: Path) -> None:
    for name in ("sub/m.data", "../m.data", "/m.data", ".."):
        with pytest.raises(GraphError, match="plain file name"):
            save_model(weighty(), tmp_path / "m.onnx", name)


def test_folder_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(GraphError, match="cannot be opened"):
        save_model(weighty(), tmp_path / "no" / "m.onnx")


def test_no_such_file_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(GraphError, match="does not exist"):
        load_model(tmp_path / "m.onnx")
    with pytest.raises(GraphError, match="is a folder"):
        load_model(tmp_path)


@pytest.mark.parametrize("kept", [0, 5, 0.5, -3])
def test_truncated_file(saved: Path, kept: float) -> None:
    content = saved.read_bytes()
    saved.write_bytes(content[: int(kept * len(content)) if isinstance(kept, float) else kept])
    with pytest.raises(GraphError, match=r"truncated|no graph"):
        load_model(saved)


def test_not_onnx(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_text("a text file, not a model")
    with pytest.raises(GraphError, match="not an ONNX model"):
        load_model(tmp_path / "m.onnx")


def test_missing_data_file_is_named(saved: Path) -> None:
    saved.with_suffix(".onnx.data").unlink()
    with pytest.raises(GraphError, match=r"'m\.onnx\.data' is missing.*tensor w"):
        load_model(saved)


def test_short_data_file(saved: Path) -> None:
    os.truncate(saved.with_suffix(".onnx.data"), 2047)
    with pytest.raises(GraphError, match="has 2047 bytes, the model needs 2048"):
        load_model(saved)


def test_data_outside_the_folder(saved: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    proto = onnx.load(saved, load_external_data=False)
    for entry in proto.graph.initializer[0].external_data:
        if entry.key == "location":
            entry.value = "../m.onnx.data"
    (tmp_path / "in" / "m.onnx").write_bytes(proto.SerializeToString())
    with pytest.raises(GraphError, match=r"'\.\./m\.onnx\.data' lies outside"):
        load_model(tmp_path / "in" / "m.onnx")


@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_linked_data(saved: Path, link: object) -> None:
    data = saved.with_suffix(".onnx.data")
    data.rename(saved.parent / "elsewhere")
    link(saved.parent / "elsewhere", data)  # type: ignore[operator]
    with pytest.raises(GraphError, match="is a link"):
        load_model(saved)


def test_opset_and_ir_version() -> None:
    model = weighty()
    ensure_opset(model)
    assert model.ir_version == 10
    newer = weighty(ir_version=11)
    ensure_opset(newer)
    assert newer.ir_version == 11
    with pytest.raises(GraphError, match="opset 17"):
        ensure_opset(weighty(opset=17))


def test_the_command_of_the_error_converts(tmp_path: Path) -> None:
    save_model(weighty(opset=13), tmp_path / "old.onnx")
    command = convert_command("old.onnx", "new.onnx").replace("python ", f"{sys.executable} ", 1)
    subprocess.run(command, shell=True, cwd=tmp_path, check=True)
    ensure_opset(load_model(tmp_path / "new.onnx"))


@pytest.mark.parametrize("suffix", [".json", ".textproto", ".onnxtxt"])
def test_text_is_not_onnx_whatever_its_suffix(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"manifest{suffix}"
    path.write_text('{"schema": "1.0"}')
    with pytest.raises(GraphError, match="is not an ONNX model"):
        load_model(path)
