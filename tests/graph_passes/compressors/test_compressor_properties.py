"""What must hold for every method, on the examples that its class carries."""

import dataclasses

import numpy as np
import pytest
from body_runner import body_model, body_session
from hypothesis import given, settings
from hypothesis import strategies as st
from properties import (
    KINDS,
    LINES,
    QUICK,
    TAME,
    Subject,
    check_agreement,
    check_batches,
    draw,
    draw_signals,
    examples,
    inputs,
    own_examples,
    starts_without_a_file,
)
from tokexport.graph_passes.agreement import compare
from tokexport.graph_passes.compressors import Case, base, make
from tokexport.graph_passes.compressors.base import Learned, width

# Shapes that depend on data, and what no TensorRT parser takes.
DYNAMIC = {"NonZero", "Unique", "ScatterElements", "ScatterND", "If", "Loop", "Scan", "Compress", "Einsum"}
ARITHMETIC = {"Sub", "Mul", "Div", "MatMul", "ReduceSum", "ReduceMean", "TopK", "ArgMax"}
# Tokens on which a replay is too strict: where tied runs began cannot be seen of slots that are not kept.
HIDDEN_TIES = {"lftr": ("integer", "near_duplicate")}
every_example = pytest.mark.parametrize(("method", "example"), examples())


@pytest.mark.parametrize("method", sorted(base.built_in()))
def test_a_method_has_examples_of_its_own_that_it_is_defined_for(method, tmp_path):
    assert own_examples(method), f"{method}: give its class `examples`"
    for number, example in enumerate(own_examples(method)):
        (tmp_path / str(number)).mkdir()
        subject = Subject(method, example, tmp_path / str(number))
        assert example.cases and all(subject.takes(case) for case in example.cases), example.params


@every_example
def test_body_agrees_with_the_reference(method, example, tmp_path):
    subject = Subject(method, example, tmp_path)

    kinds = [kind for kind in (TAME if subject.trained else KINDS) if kind not in HIDDEN_TIES.get(method, ())]

    @given(drawn=inputs(subject.cases, kinds))
    @settings(QUICK, max_examples=12)
    def agrees(drawn):
        check_agreement(subject, drawn)

    agrees()


@pytest.mark.parametrize(("method", "example"), examples(starts_without_a_file))
def test_body_with_initial_weights_agrees_with_the_reference(method, example, tmp_path):
    subject = Subject(method, example, tmp_path, trained=False)

    @given(drawn=inputs(subject.cases))
    @settings(QUICK, max_examples=12)
    def agrees(drawn):
        check_agreement(subject, drawn)

    agrees()


@every_example
def test_batch_elements_do_not_see_each_other(method, example, tmp_path):
    subject = Subject(method, example, tmp_path)
    case = Case(25, 16, 11) if Case(25, 16, 11) in subject.cases else subject.cases[0]

    @given(kind=st.sampled_from(TAME if subject.trained else KINDS), seed=st.integers(0, 2**32 - 1))
    @settings(QUICK, max_examples=5)
    def alone(kind, seed):
        check_batches(subject, case, kind, seed)

    alone()


@every_example
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_all_tokens_kept_is_the_identity(method, example, dtype, tmp_path):
    subject = Subject(method, example, tmp_path, trained=False)
    every = {dataclasses.replace(case, keep=case.tokens, dtype=dtype) for case in [*example.cases, *LINES]}
    for case in every:
        if (
            not subject.takes(case)
            or isinstance(subject.made(case), Learned)
            or width(subject.made(case), case) != case.dim
        ):
            continue
        compressor, rng = subject.made(case), np.random.default_rng(0)
        tokens = draw("normal", rng, 2, case.tokens, case.dim).astype(dtype)
        got = body_session(compressor, case)(tokens, **draw_signals(compressor, case, rng, 2))
        assert np.array_equal(got.tokens, tokens), case
        assert got.assignment.tolist() == [list(range(case.tokens))] * 2, case


@every_example
def test_body_has_static_shapes_and_standard_operators(method, example, tmp_path):
    subject = Subject(method, example, tmp_path)
    (function,) = body_model(subject.made(example.cases[0]), example.cases[0]).functions.values()
    assert not {node.op_type for node in function} & DYNAMIC
    assert {node.domain for node in function} == {""}
    assert all(value.name != "_" for node in function for value in node.outputs)


@every_example
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_arithmetic_is_float32_whatever_the_tokens_are(method, example, dtype, tmp_path):
    subject = Subject(method, example, tmp_path)
    case = dataclasses.replace(example.cases[0], dtype=dtype)
    (function,) = body_model(subject.made(case), case).functions.values()
    # Attention is float32 in every case.
    halves = {value for value in function.inputs if not value.name.endswith("attention")}
    for node in function:
        if node.op_type in ARITHMETIC:
            assert not halves & {*node.inputs}, node


@pytest.mark.parametrize("kind", ["normal", "correlated", "massive", "sink"])
def test_model_sized_tokens_agree_to_the_token(kind):
    compressor, case = make("apet"), Case(144, 256, 21)
    tokens = draw(kind, np.random.default_rng(0), 1, 144, 256)
    agreement = compare(compressor, case, tokens, body_session(compressor, case)(tokens))
    assert agreement.ok, agreement
    if kind != "correlated":
        assert agreement.flipped == 0
