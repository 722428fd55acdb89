"""Probes survive the file they are kept in."""

import json
import zipfile

import ml_dtypes
import numpy as np
import pytest
from tokexport.errors import BundleError
from tokexport.exporter.proof.probes import FILE, Probe, load, to_bytes


def probe() -> Probe:
    rng = np.random.default_rng(1)
    return Probe(
        "compressor",
        "encoder",
        {"a/b": rng.standard_normal((1, 3, 2)).astype(np.float32), "h": np.ones((2, 2), np.float16)},
        {"out": rng.standard_normal((1, 2)).astype(ml_dtypes.bfloat16), "i": np.arange(3)},
        {"name": "apet", "params": {"basis": 4}, "grid": [12, 12]},
    )


def test_round_trip_keeps_names_types_and_values(tmp_path):
    saved = probe()
    (tmp_path / FILE).write_bytes(to_bytes([saved, saved]))
    read = load(tmp_path / FILE)
    assert len(read) == 2
    for side in ("inputs", "expected"):
        for name, array in getattr(saved, side).items():
            back = getattr(read[1], side)[name]
            assert back.dtype == array.dtype and np.array_equal(back, array)
    assert (read[0].part, read[0].role, read[0].method) == (saved.part, saved.role, saved.method)


def test_a_missing_file_says_how_to_get_one(tmp_path):
    with pytest.raises(BundleError, match="without --no-verify"):
        load(tmp_path / FILE)


def test_a_damaged_file_is_named(tmp_path):
    data = to_bytes([probe()])
    (tmp_path / FILE).write_bytes(data[: len(data) // 2])
    with pytest.raises(BundleError, match=r"proof.npz"):
        load(tmp_path / FILE)


def saved(path, **arrays):
    np.savez_compressed(path, **arrays)
    return path


def test_an_archive_that_inflates_without_measure_is_refused(tmp_path):
    path = saved(tmp_path / FILE, index=np.zeros(200_000_000, np.uint8))
    assert path.stat().st_size < 1e6
    with pytest.raises(BundleError, match="would inflate to 200000"):
        load(path)


def test_a_header_that_asks_for_more_than_there_is(tmp_path):
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000,), }"
    content = b"\x93NUMPY\x01\x00" + len(header + b"\n").to_bytes(2, "little") + header + b"\n"
    with zipfile.ZipFile(tmp_path / FILE, "w") as archive:
        archive.writestr("index.npy", content)
    with pytest.raises(BundleError, match="its header says"):
        load(tmp_path / FILE)


ARRAY = {"name": "x", "key": "x", "dtype": "float32"}
ENTRY = {"part": "head", "role": "encoder", "inputs": [ARRAY], "expected": [ARRAY], "method": {}}


@pytest.mark.parametrize(
    "index",
    [
        {},
        [1],
        [[]],
        [ENTRY | {"role": "decoder"}],
        [ENTRY | {"inputs": []}],
        [ENTRY | {"inputs": [ARRAY | {"key": "../x"}]}],
        [ENTRY | {"inputs": [ARRAY | {"dtype": "int8"}]}],
        [ENTRY | {"expected": None}],
        [ENTRY | {"method": "apet"}],
        [ENTRY | {"part": []}],
    ],
)
def test_an_index_of_another_form(tmp_path, index):
    bits = np.frombuffer(json.dumps(index).encode(), np.uint8)
    with pytest.raises(BundleError, match=r"proof\.npz is damaged"):
        load(saved(tmp_path / FILE, index=bits, x=np.zeros(3, np.float32)))
