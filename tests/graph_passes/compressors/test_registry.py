import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from body_runner import SIGNAL_DIMS
from tokexport.errors import RequestError
from tokexport.graph_passes.compressors import Case, Compressor, base, compressor, make, names, parameters, table
from tokexport.graph_passes.compressors.base import ascending, width
from tokexport.graph_passes.reference import reference

BUILT_IN = sorted(base.built_in())
ALL_KEPT = Case(12, 4, 12)
FAMILIES = {"transformation", "similarity", "attention", "query", "algebraic", "baseline"}


def reaches(name, case):
    if isinstance(make(name), base.Learned):
        return False
    try:
        make(name).check(case)
    except RequestError:
        return False
    return True


def test_built_in_methods():
    assert {"apet", "kcenter_merge", "pixel_unshuffle", "pool", "random", "topk", "uniform"} <= set(names())
    assert names() == sorted(names())
    # One file a method and nothing else: helpers lie in folders.
    files = {path.stem: path.read_text() for path in Path(base.__file__).parent.glob("*.py")}
    assert {name for name, text in files.items() if "\n@compressor(" in text} == {*base.built_in()}
    assert {*files} == {"__init__", "base", *base.built_in()}


def test_slots_have_the_channels_of_tokens_but_where_a_method_says_otherwise():
    case = Case(36, 8, 9, grid=(6, 6))
    wide = {name: width(make(name), case) for name in BUILT_IN if width(make(name), case) != 8}
    assert wide["pixel_unshuffle"] == 32 and wide["stack"] == 40 and "pool" not in wide
    assert ascending(make("pixel_unshuffle"))
    assert not ascending(make("pixel_unshuffle", {"version": "v1"}))


@pytest.mark.parametrize("name", BUILT_IN)
def test_card(name):
    made = make(name)
    assert isinstance(made, Compressor)
    assert made.method.name == name
    assert made.method.family in FAMILIES
    assert set(made.method.modalities) <= {"image", "video", "audio"}
    assert made.method.summary and made.method.source
    assert dataclasses.is_dataclass(made)
    assert made == type(made)(**parameters(made))
    with pytest.raises(dataclasses.FrozenInstanceError):
        made.start = 1


def test_the_table_says_what_a_method_lacks_and_whether_it_can_be_cached():
    rows = {row["name"]: row for row in table()}
    assert rows["apet"]["lacks"] == {} and rows["apet"]["cacheable"] and not rows["apet"]["heavy"]
    assert list(rows["trim"]["lacks"]) == ["tensorrt"] and not rows["trim"]["cacheable"]
    assert rows["kcenter_merge"]["heavy"]


def test_listing_methods_imports_nothing_heavy():
    code = (
        "import sys; from tokexport.graph_passes.compressors import methods; methods();"
        "print(sorted({'torch', 'onnx', 'onnx_ir', 'onnxruntime', 'pydantic', 'onnxscript'} & set(sys.modules)))"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert printed.stdout.strip() == "[]"


def test_parameters_are_converted_from_strings():
    made = make("apet", {"basis": "12", "merge": "false", "basis_slots": "none", "ridge": "1e-1"})
    assert parameters(made) == {
        "basis": 12,
        "merge": False,
        "basis_slots": "none",
        "start": "first",
        "ridge": 0.1,
    }


@pytest.mark.parametrize(
    ("name", "params", "message"),
    [
        ("apett", None, r"unknown method 'apett'.*Did you mean apet\b.*Known methods: a_tome"),
        ("apet", {"bases": 3}, r"'apet' has no parameter 'bases'.*Did you mean basis"),
        ("apet", {"basis": "many"}, "parameter basis of method 'apet' is 'many'"),
        ("apet", {"start": "last"}, "parameter start of method 'apet' is 'last'.*farthest_from_mean"),
        ("topk", {"score": "luck"}, "parameter score of method 'topk' is 'luck'"),
        ("uniform", {"seed": 1}, "method 'uniform' has no parameter 'seed'"),
    ],
)
def test_wrong_requests(name, params, message):
    with pytest.raises(RequestError, match=message):
        make(name, params)


def test_no_class_elsewhere_takes_the_name_of_a_built_in_method():
    @dataclasses.dataclass(frozen=True)
    class Theirs:
        pass

    card = {"family": "baseline", "modalities": ("image",), "merges": False, "source": "test", "summary": "a test"}
    with pytest.raises(RequestError, match="Theirs takes the name 'apet', which is a built-in method's"):
        compressor("apet", **card)(Theirs)
    assert make("apet").method.source.startswith("ApET")
    with pytest.raises(TypeError, match=r"modalities='image' on the card of method 'theirs' is no tuple"):
        compressor("theirs", **{**card, "modalities": "image"})(Theirs)


def test_reference_takes_the_public_names():
    tokens = torch.arange(24, dtype=torch.float16).reshape(1, 12, 2)
    result = reference("topk", tokens, keep=2, params={"score": "norm"})
    assert result.tokens.dtype == torch.float16
    assert result.kept_indices.tolist() == [[10, 11]]
    with pytest.raises(RequestError, match=r"keep 13 is outside 1\.\.12"):
        reference("uniform", tokens, keep=13)
    with pytest.raises(RequestError, match="reads the signals"):
        reference("uniform", tokens, keep=3, cls_attention=torch.zeros(1, 12))


@pytest.mark.parametrize("name", [name for name in BUILT_IN if reaches(name, ALL_KEPT)])
def test_keeping_all_is_the_identity(name):
    tokens = torch.from_numpy(np.random.default_rng(0).standard_normal((2, 12, 4)).astype(np.float32))
    made = make(name)
    signals = {signal: torch.rand(2, *SIGNAL_DIMS[signal](ALL_KEPT)) for signal in made.signals()}
    result = made.reference(ALL_KEPT, tokens, **signals)
    assert torch.equal(result.tokens, tokens)
    assert result.assignment.tolist() == [list(range(12))] * 2
