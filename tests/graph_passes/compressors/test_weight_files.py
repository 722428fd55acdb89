import numpy as np
import pytest
from safetensors.numpy import save_file
from tokexport.errors import RequestError
from tokexport.graph_passes.compressors.blocks.weights import load_weights

ARRAYS = {"w": np.arange(6, dtype=np.float16).reshape(2, 3), "b": np.ones(3, np.float64)}
SHAPES = {"b": (3,), "w": (2, 3)}


@pytest.fixture(params=["x.npz", "x.safetensors"])
def file(request, tmp_path):
    path = tmp_path / request.param
    np.savez(path, **ARRAYS) if path.suffix == ".npz" else save_file(ARRAYS, path)
    return path


def test_arrays_come_in_the_order_asked_for_and_in_float32(file):
    arrays = load_weights("m", str(file), SHAPES)
    assert list(arrays) == ["b", "w"]
    assert {a.dtype for a in arrays.values()} == {np.dtype("float32")}
    assert arrays["w"].tolist() == [[0, 1, 2], [3, 4, 5]]


def test_what_does_not_fit_is_named(file):
    with pytest.raises(RequestError, match=r"no array 'ww'.*method 'm'.*[Dd]id you mean w"):
        load_weights("m", str(file), {"ww": (2, 3)})
    with pytest.raises(RequestError, match=r"array 'w' is \[2, 3\], but these tokens need \[3, 3\]"):
        load_weights("m", str(file), {"w": (3, 3)})


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(RequestError, match="no such file"):
        load_weights("m", str(tmp_path / "x.npz"), SHAPES)
    for name in ("x.npz", "x.safetensors"):
        (tmp_path / name).write_bytes(b"nothing")
        with pytest.raises(RequestError, match="cannot be read"):
            load_weights("m", str(tmp_path / name), SHAPES)
    (tmp_path / "x.bin").write_bytes(b"")
    with pytest.raises(RequestError, match=r"\.safetensors or \.npz"):
        load_weights("m", str(tmp_path / "x.bin"), SHAPES)
    np.savez(tmp_path / "y.npz", w=np.array([np.nan]))
    with pytest.raises(RequestError, match="NaN or inf"):
        load_weights("m", str(tmp_path / "y.npz"), {"w": (1,)})
