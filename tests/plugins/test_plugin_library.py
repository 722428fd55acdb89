"""The shells in plugins/tensorrt beside a stand-in for TensorRT: what they refuse, and how; types and shapes."""

from __future__ import annotations

import ctypes

import pytest
from kernel_checks import SIX_OF_24
from plugin_host import (
    BF16,
    BUILD,
    CHAR,
    CHW4,
    F32,
    F64,
    FLOAT,
    HALF,
    I32,
    I64,
    INT8,
    INT32,
    INT64,
    RUNTIME,
    Host,
    tensor,
)
from tokexport.graph_passes.compressors import Case, make
from tokexport.graph_passes.compressors.base import plugin_attributes
from tokexport.graph_passes.forms import PLUGIN_NAMESPACE, PLUGIN_VERSION
from tokexport.plugins.schema import PLUGINS

APET = {"keep": 6, "basis": 3, "merge": 1, "basis_slots": "overwrite", "start": "first", "ridge": 1e-5}
TOPK = {"keep": 6, "score": "cls_attention"}
SCOPE = {"keep": 6, "alpha": 2.5, "attention": "received"}
CDPRUNER = {"keep": 6, "text_length": 5, "inverted": 1}
EVS = {"keep": 6, "grid": [4, 3, 2]}
DART = {"keep": 6, "pivots": 3, "norm_of": "tokens"}
VISIONZIP = {"keep": 6, "attention": "cls", "contextual": 2, "merge": "add"}
WHERE = "TokexportApet 'enc/compress': "


def op_type(method: str) -> str:
    return "Tokexport" + "".join(part.capitalize() for part in method.split("_"))


def array(type, *values):
    return (type * len(values))(*values)


def test_every_method_that_has_a_kernel_has_a_creator(host: Host):
    expected = {f"{op_type(method)} {PLUGIN_VERSION} {PLUGIN_NAMESPACE}" for method in PLUGINS}
    assert set(host.names) == expected and len(host.names) == len(expected)


def test_a_program_without_tensorrt_may_ask_for_the_names(host: Host):
    host.library.tokexport_plugin_names.restype = ctypes.c_char_p
    assert sorted(host.library.tokexport_plugin_names().decode().split()) == sorted(map(op_type, PLUGINS))


def test_creators_register_themselves_until_a_registry_asks_for_them(host: Host):
    assert sorted(host.registered) == sorted(host.names)
    assert host.left == []


@pytest.mark.parametrize("method", PLUGINS)
def test_attributes_are_those_of_the_plugin_form(host: Host, method):
    written = plugin_attributes(make(method, SIX_OF_24.get(method)), Case(24, 8, 6))
    assert sorted(host.attributes(op_type(method))) == sorted({"keep", *written})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"keep": 0}, "attribute 'keep' is 0; allowed: an integer, 1 to 32768"),
        ({"basis": 65}, "attribute 'basis' is 65; allowed: an integer, 1 to 64"),
        ({"basis": -1}, "attribute 'basis' is -1; allowed: an integer, 1 to 64"),
        ({"basis": 3.0}, "attribute 'basis' is a float; allowed: an integer, 1 to 64"),
        ({"basis": [3, 3]}, "attribute 'basis' is 2 integers; allowed: an integer, 1 to 64"),
        ({"basis": (I64, array(ctypes.c_int64, 2**32 + 3))}, "attribute 'basis' is 4294967299; allowed: an integer"),
        ({"merge": 2}, "attribute 'merge' is 2; allowed: an integer, 0 to 1"),
        ({"basis_slots": "overwrit"}, "attribute 'basis_slots' is 'overwrit'; allowed: overwrite, blend, none"),
        ({"basis_slots": ""}, "attribute 'basis_slots' is ''; allowed: overwrite, blend, none"),
        ({"start": 0}, "attribute 'start' is an integer; allowed: first, max_norm, farthest_from_mean"),
        ({"ridge": 0.0}, "attribute 'ridge' is 0; allowed: a float, 1e-09 to 1e+09"),
        ({"ridge": float("nan")}, "attribute 'ridge' is nan; allowed: a float, 1e-09 to 1e+09"),
        ({"ridge": 1}, "attribute 'ridge' is an integer; allowed: a float, 1e-09 to 1e+09"),
        ({"ridge": None}, "attribute 'ridge' is missing; allowed: a float, 1e-09 to 1e+09"),
        (
            {"bsis": 3},
            "there is no attribute 'bsis'; allowed: keep, basis, merge, basis_slots, start, ridge",
        ),
    ],
)
def test_what_an_attribute_must_be(host: Host, change, message):
    attributes = {name: value for name, value in {**APET, **change}.items() if value is not None}
    assert host.create("TokexportApet", attributes) is None
    assert host.log().startswith(WHERE + message)


@pytest.mark.parametrize(
    ("name", "attributes", "message"),
    [
        ("TokexportEvs", {**EVS, "grid": [6, 4]}, "'grid' is 2 integers; allowed: 3 integers, each 1 to 32768"),
        ("TokexportEvs", {**EVS, "grid": [1, 0, 4]}, "'grid' is 1, 0, 4; allowed: 3 integers, each 1 to 32768"),
        ("TokexportEvs", {**EVS, "grid": "6x4"}, "'grid' is a string; allowed: 3 integers, each 1 to 32768"),
        ("TokexportDart", {**DART, "pivots": 0}, "'pivots' is 0; allowed: an integer, 1 to 32768"),
        ("TokexportDart", {**DART, "norm_of": "values"}, "'norm_of' is 'values'; allowed: keys, tokens"),
        ("TokexportVisionzip", {**VISIONZIP, "merge": "max"}, "'merge' is 'max'; allowed: add, mean"),
        (
            "TokexportClsTopk",
            {"keep": 6, "attention": "rec"},
            "'attention' is 'rec'; allowed: cls, received, words, raters, peak",
        ),
        ("TokexportScope", {**SCOPE, "alpha": 11.0}, "'alpha' is 11; allowed: a float, 0 to 10"),
        ("TokexportCdpruner", {**CDPRUNER, "text_length": 0}, "'text_length' is 0; allowed: an integer, 1 to 32768"),
        ("TokexportTopk", {**TOPK, "score": "cls"}, "'score' is 'cls'; allowed: cls_attention, norm, distance_to_mean"),
    ],
)
def test_what_other_attributes_must_be(host: Host, name, attributes, message):
    assert host.create(name, attributes) is None
    assert host.log() == f"{name} 'enc/compress': attribute {message}\n"


def test_numbers_of_another_width_are_taken(host: Host):
    wide = {
        **APET,
        "basis": (I64, array(ctypes.c_int64, 3)),
        "ridge": (F64, array(ctypes.c_double, 1e-5)),
        "start": (CHAR, ctypes.create_string_buffer(b"first")),  # with the zero at its end
    }
    plugin = host.create("TokexportApet", wide)
    assert plugin.stored() == host.create("TokexportApet", APET).stored()
    assert host.log() == ""


def test_core(host: Host):
    assert host.create("TokexportApet", APET).core() == "TokexportApet 1 tokexport"


@pytest.mark.parametrize("tokens", [FLOAT, HALF, BF16])
def test_types_of_outputs(host: Host, tokens):
    assert host.create("TokexportApet", APET).types(tokens) == [tokens, INT64, FLOAT, INT64]
    for scores in (FLOAT, HALF, BF16):
        assert host.create("TokexportTopk", TOPK).types(tokens, scores) == [tokens, INT64, FLOAT, INT64]


@pytest.mark.parametrize(
    ("name", "attributes", "inputs", "message"),
    [
        ("TokexportApet", APET, [INT32], "tokens have another type; allowed: float32, float16 or bfloat16"),
        ("TokexportApet", APET, [FLOAT, FLOAT], "it has 2 of its inputs; allowed: tokens"),
        (
            "TokexportVisionzip",
            VISIONZIP,
            [HALF, FLOAT, FLOAT],
            "keys has another type; allowed: the type of the tokens",
        ),
        ("TokexportScope", SCOPE, [FLOAT], "it has 1 of its inputs; allowed: tokens, received_attention"),
        ("TokexportTopk", TOPK, [FLOAT], "it has 1 of its inputs; allowed: tokens, cls_attention"),
        ("TokexportTopk", {**TOPK, "score": "norm"}, [FLOAT, FLOAT], "it has 2 of its inputs; allowed: tokens"),
        (
            "TokexportTopk",
            TOPK,
            [HALF, INT64],
            "cls_attention has another type; allowed: float32, float16 or bfloat16",
        ),
    ],
)
def test_types_that_are_refused(host: Host, name, attributes, inputs, message):
    assert host.create(name, attributes).types(*inputs) is None
    assert host.log() == f"{name} 'enc/compress': {message}\n"


def test_formats(host: Host):
    plugin = host.create("TokexportTopk", TOPK)
    shapes = [(2, 24, 8), (2, 24), (2, 6, 8), (2, 6), (2, 6), (2, 24)]
    good = [HALF, FLOAT, HALF, INT64, FLOAT, INT64]
    for position in range(6):
        taken = set()
        for type in (FLOAT, HALF, BF16, INT8, INT32, INT64):
            tensors = [tensor(shape, kind) for shape, kind in zip(shapes, good)]
            tensors[position].type = type
            taken |= {type} if plugin.supports(position, tensors) else set()
            tensors[position].format = CHW4
            assert not plugin.supports(position, tensors)
        assert taken == [{FLOAT, HALF, BF16}, {FLOAT, HALF, BF16}, {HALF}, {INT64}, {FLOAT}, {INT64}][position]


@pytest.mark.parametrize("batch", [1, 3, -1])
def test_shapes(host: Host, batch):
    rest = [[batch, 6], [batch, 6], [batch, 24]]
    assert host.create("TokexportApet", APET).shapes((batch, 24, 8)) == [[batch, 6, 8], *rest]
    topk = host.create("TokexportTopk", TOPK)
    for other in (batch, -1):
        assert topk.shapes((batch, 24, 8), (other, 24)) == [[batch, 6, 8], *rest], host.log()
    assert topk.shapes((-1, 24, 8), (3, -1)) == [[-1, 6, 8], [-1, 6], [-1, 6], [-1, 24]]
    assert host.create("TokexportCdpruner", CDPRUNER).shapes((batch, 24, 8), (batch, 5, 8)) == [[batch, 6, 8], *rest]


@pytest.mark.parametrize(
    ("name", "attributes", "inputs", "message"),
    [
        ("TokexportApet", APET, [(24, 8)], "tokens have no shape [B, N, D]"),
        ("TokexportApet", APET, [(1, -1, 8)], "tokens [B, N, D] whose N or D is not fixed; allowed: only B may vary"),
        ("TokexportApet", APET, [(1, 24, -1)], "tokens [B, N, D] whose N or D is not fixed; allowed: only B may vary"),
        ("TokexportApet", APET, [(65536, 24, 8)], "tokens [65536, 24, 8] with keep 6: batch is outside 1..65535"),
        ("TokexportApet", APET, [(1, 40000, 8)], "tokens [1, 40000, 8] with keep 6: tokens are outside 1..32768"),
        ("TokexportApet", APET, [(1, 24, 2**40)], "tokens [1, 24, 2147483647] with keep 6: dim is outside 1..32768"),
        (
            "TokexportApet",
            APET,
            [(1, 5, 8)],
            "tokens [1, 5, 8] with keep 6: keep is not a number that this method can keep of these tokens",
        ),
        (
            "TokexportApet",
            {**APET, "keep": 2},
            [(1, 24, 8)],
            "tokens [1, 24, 8] with keep 2: keep is not a number that this method can keep of these tokens",
        ),
        (
            "TokexportVisionzip",
            VISIONZIP,
            [(2, 24, 8), (2, 24), (2, 23, 4)],
            "keys does not have a value for each of the tokens [2, 24, 8]",
        ),
        *(
            (
                "TokexportCdpruner",
                CDPRUNER,
                [(2, 24, 8), text],
                "text does not have 5 rows as wide as the tokens [2, 24, 8]",
            )
            for text in ((2, 4, 8), (2, 5, 7), (1, 5, 8), (2, 5))
        ),
        (
            "TokexportDart",
            {"keep": 6, "pivots": 7, "norm_of": "tokens"},
            [(2, 24, 8)],
            "tokens [2, 24, 8] with keep 6: keep is not a number that this method can keep of these tokens",
        ),
        (
            "TokexportEvs",
            {**EVS, "keep": 5},
            [(1, 24, 8)],
            "tokens [1, 24, 8] with keep 5: keep is not a number that this method can keep of these tokens",
        ),
        (
            "TokexportTome",
            {"keep": 25, "metric": "tokens"},
            [(1, 24, 8)],
            "tokens [1, 24, 8] with keep 25: keep is not a number that this method can keep of these tokens",
        ),
        (
            "TokexportEvs",
            EVS,
            [(1, 25, 8)],
            "tokens [1, 25, 8] with keep 6: the grid does not have as many places as there are tokens",
        ),
        (
            "TokexportTopk",
            TOPK,
            [(2, 24, 8), (2, 23)],
            "cls_attention does not have a value for each of the tokens [2, 24, 8]",
        ),
        (
            "TokexportTopk",
            TOPK,
            [(2, 24, 8), (1, 24)],
            "cls_attention does not have a value for each of the tokens [2, 24, 8]",
        ),
        (
            "TokexportTopk",
            TOPK,
            [(2, 24, 8), (2, 24, 1)],
            "cls_attention does not have a value for each of the tokens [2, 24, 8]",
        ),
    ],
)
def test_shapes_that_are_refused(host: Host, name, attributes, inputs, message):
    assert host.create(name, attributes).shapes(*inputs) is None
    assert host.log() == f"{name} 'enc/compress': {message}\n"


def test_the_largest_of_a_profile_is_checked_and_has_its_workspace(host: Host):
    plugin = host.create("TokexportApet", APET)
    sizes = [plugin.workspace(tensor((batch, 24, 8), HALF)) for batch in (1, 4)]
    assert 0 < sizes[0] < sizes[1]
    assert plugin.configure(tensor((65535, 24, 8), HALF))
    assert host.log() == ""
    assert not plugin.configure(tensor((65536, 24, 8), HALF))
    assert host.log() == WHERE + "tokens [65536, 24, 8] with keep 6: batch is outside 1..65535\n"


@pytest.mark.parametrize(
    ("name", "attributes"),
    [
        ("TokexportApet", APET),
        ("TokexportKcenterMerge", {"keep": 6, "start": "farthest_from_mean"}),
        ("TokexportTopk", {**TOPK, "score": "distance_to_mean"}),
        ("TokexportEvs", EVS),
        ("TokexportDart", {**DART, "norm_of": "tokens"}),
        ("TokexportTome", {"keep": 6, "metric": "tokens"}),
        ("TokexportDivprune", {"keep": 6}),
    ],
)
def test_an_engine_gives_back_what_it_stored(host: Host, name, attributes):
    plugin = host.create(name, attributes)
    stored = plugin.stored()
    assert stored.pop("stored_version") == (I32, (1).to_bytes(4, "little"))
    assert sorted(stored) == sorted(attributes)
    for other in (host.restore(plugin, name), plugin.clone(), plugin.attached(), host.restore(plugin.clone(), name)):
        assert other.stored() == plugin.stored()
        assert other.shapes((2, 24, 8)) == plugin.shapes((2, 24, 8))
    assert host.log() == ""


def test_what_is_stored_is_the_value_in_words_and_numbers(host: Host):
    stored = host.create("TokexportApet", {**APET, "basis": 5, "basis_slots": "blend"}).stored()
    assert stored["basis_slots"] == (CHAR, b"blend")
    assert stored["basis"] == (I32, (5).to_bytes(4, "little"))
    assert stored["ridge"] == (F32, bytes(ctypes.c_float(1e-5)))


def test_an_engine_of_another_version_is_refused(host: Host):
    assert host.create("TokexportApet", {"stored_version": 2, **APET}, RUNTIME) is None
    assert host.log() == (
        WHERE + "the engine stores it as version 2, and this library reads version 1; "
        "build the engine again, or load the library it was built with\n"
    )
    assert host.create("TokexportApet", APET, RUNTIME) is None
    assert host.log().startswith(WHERE + "attribute 'stored_version' is missing")
    assert host.create("TokexportApet", {"stored_version": 1, **APET}, BUILD) is None
    assert host.log().startswith(WHERE + "there is no attribute 'stored_version'")
