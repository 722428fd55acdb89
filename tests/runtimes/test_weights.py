import hashlib
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from tokexport.errors import GraphError
from tokexport.runtimes.bundle import weights as weights_module
from tokexport.runtimes.bundle.weights import PAGE, DataFile
from tokexport.runtimes.bundle.writer import BundleWriter
from toy_model import model, ones


def tensors(path: Path) -> dict[str, ir.TensorProtocol]:
    found = ir.load(path).graph.initializers
    return {name: value.const_value for name, value in found.items() if value.const_value is not None}


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """A model on disk whose weights lie in a data file of its own."""
    folder = tmp_path / "foreign"
    folder.mkdir()
    ir.save(
        model(a=ones(3000), b=ones(3000, 2), s=ones(3)),
        folder / "m.onnx",
        external_data="w.bin",
        size_threshold_bytes=0,
    )
    return folder / "m.onnx"


def test_weights_go_to_one_data_file_and_back(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    big = rng.standard_normal((700, 400)).astype(np.float32)
    half = rng.standard_normal(1000).astype(np.float16)
    source = model(half=half, big=big, small=ones(4))
    with BundleWriter(tmp_path / "out") as writer:
        writer.add_model("encoder.onnx", source)
        found = tensors(writer.folder / "encoder.onnx")
        np.testing.assert_array_equal(found["big"].numpy(), big)
        np.testing.assert_array_equal(found["half"].numpy(), half)
        assert isinstance(found["big"], ir.ExternalTensor)
        assert found["big"].location == "encoder.onnx.data"
        assert found["big"].offset == PAGE
        assert not isinstance(found["small"], ir.ExternalTensor)
    assert isinstance(source.graph.initializers["big"].const_value, ir.Tensor), "the caller's model changed"


@pytest.mark.parametrize(("count", "external"), [(255, False), (256, True)])
def test_weights_from_1_kb_are_external(tmp_path: Path, count: int, external: bool) -> None:
    with BundleWriter(tmp_path / "out") as writer:
        writer.add_model("encoder.onnx", model(w=ones(count)))
        assert (writer.folder / "encoder.onnx.data").exists() is external


def test_forms_and_tied_weights_share_bytes(tmp_path: Path) -> None:
    first = model(a=ones(1000), same_content=ones(1000), b=ones(1000, 2))
    with BundleWriter(tmp_path / "out") as writer:
        writer.add_model("encoder.onnx", first)
        size = (writer.folder / "encoder.onnx.data").stat().st_size
        assert size < 3 * 4000
        writer.add_model("encoder.plugin.onnx", first.clone())
        assert (writer.folder / "encoder.onnx.data").stat().st_size == size
        writer.add_model("prefill.onnx", model(c=ones(1000, 3)), data="language.onnx.data")
        writer.add_model("decode.onnx", model(d=ones(1000, 3)), data="language.onnx.data")
        assert (writer.folder / "language.onnx.data").stat().st_size == 4000
        found = tensors(writer.folder / "decode.onnx")["d"]
        np.testing.assert_array_equal(found.numpy(), ones(1000, 3))


def test_a_tensor_that_is_gone_gives_its_place_to_no_other(tmp_path: Path) -> None:
    """Tensors in memory are known by their ids, and Python gives the id of one that is gone to the next."""
    with DataFile(tmp_path / "w.data") as file:
        places = [file.add(ir.tensor(np.full(300, i, np.float32))) for i in range(20)]
    assert len(set(places)) == 20


def test_hash_of_a_data_file_is_right_after_a_duplicate_was_cut_off(tmp_path: Path) -> None:
    with DataFile(tmp_path / "data") as file:
        file.add(ir.tensor(ones(1000), name="a"))
        file.add(ir.tensor(ones(1000), name="b"))
        file.add(ir.tensor(ones(500, 2), name="c"))
    content = (tmp_path / "data").read_bytes()
    assert len(content) == file.size == 4000 + 32 + 2000
    assert file.sha256 == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("reflinks", [False, True])
def test_weights_of_a_file_are_streamed_or_cloned(
    tmp_path: Path, foreign: Path, monkeypatch: pytest.MonkeyPatch, reflinks: bool
) -> None:
    cloned: list[Path] = []

    def reflink(source: Path, target: object) -> bool:
        if reflinks:
            target.write(source.read_bytes())  # type: ignore[attr-defined]
            cloned.append(source)
        return reflinks

    monkeypatch.setattr(weights_module, "reflink", reflink)
    source = ir.load(foreign)
    with BundleWriter(tmp_path / "out") as writer:
        writer.add_model("encoder.onnx", source)
        writer.add_model("encoder.plugin.onnx", source)
        data = writer.folder / "encoder.onnx.data"
        for name in ("encoder.onnx", "encoder.plugin.onnx"):
            found = tensors(writer.folder / name)
            np.testing.assert_array_equal(found["a"].numpy(), ones(3000))
            np.testing.assert_array_equal(found["b"].numpy(), ones(3000, 2))
            assert not isinstance(found["s"], ir.ExternalTensor)
        if reflinks:
            assert data.stat().st_size == foreign.with_name("w.bin").stat().st_size
        file = writer._open[str(data)]
        assert file.sha256 == hashlib.sha256(data.read_bytes()).hexdigest()
    assert cloned == ([foreign.with_name("w.bin")] if reflinks else [])


@pytest.mark.parametrize("damage", ["short", "gone", "linked"])
def test_weights_that_cannot_be_read_are_named(tmp_path: Path, foreign: Path, damage: str) -> None:
    data = foreign.with_name("w.bin")
    if damage == "short":
        data.write_bytes(data.read_bytes()[:-8000])
    else:
        data.rename(tmp_path / "elsewhere")
    if damage == "linked":
        data.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(GraphError, match=r"weights of '[abs]'"), BundleWriter(tmp_path / "out") as writer:
        writer.add_model("encoder.onnx", ir.load(foreign))
    assert not (tmp_path / "out").exists()


def test_length_that_does_not_fit_the_shape_is_refused(tmp_path: Path, foreign: Path) -> None:
    short = ir.ExternalTensor(
        "w.bin", 0, 4000, ir.DataType.FLOAT, shape=ir.Shape([3000]), name="a", base_dir=foreign.parent
    )
    with (
        DataFile(tmp_path / "data") as file,
        pytest.raises(GraphError, match=r"4000 bytes where its shape needs 12000"),
    ):
        file.add(short)


def test_file_that_holds_much_else_is_not_cloned(
    tmp_path: Path, foreign: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights_module, "reflink", lambda source, target: pytest.fail("half of it is not needed"))
    source = ir.load(foreign)
    tensors = [source.graph.initializers["a"].const_value]
    with DataFile(tmp_path / "data") as file:
        file.adopt([tensor for tensor in tensors if tensor is not None])
        assert file.size == 0
