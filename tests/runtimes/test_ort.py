import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokexport
import toy_bundle
from PIL import Image
from tokexport.errors import BundleError, GraphError, MissingError, RequestError
from tokexport.runtimes.bundle.manifest import TensorRecord
from tokexport.runtimes.bundle.reader import open_bundle
from tokexport.runtimes.kv_cache import KVCache
from tokexport.runtimes.load import load
from tokexport.runtimes.ort.bound import BoundSteps
from tokexport.runtimes.ort.session import OrtSession
from tokexport.runtimes.session import Session

pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy_bundle.write(tmp_path_factory.mktemp("ort") / "toy")


@pytest.fixture
def session(folder: Path) -> Session:
    return load(folder, threads=1)


def test_the_threads_of_a_graph_rest_when_it_has_run(session: Session) -> None:
    assert isinstance(session, OrtSession)
    options = session.session("encoder").get_session_options()
    assert options.get_session_config_entry("session.force_spinning_stop") == "1"


PIXELS = np.zeros((1, 3, 4, 4), np.float32)
IMAGE = Image.new("RGB", (9, 5), "red")


def test_answer_follows_the_rule_of_the_toy(session: Session) -> None:
    answer = session.generate(IMAGE, "b a")
    assert answer.text == "b c d e"
    assert answer.ids == [4, 5, 6, 7]
    np.testing.assert_array_equal(answer.kept_indices, [1, 3])
    np.testing.assert_array_equal(answer.sizes, [3, 1])


def test_a_bundle_of_schema_1_gives_the_same_answers(tmp_path: Path, session: Session) -> None:
    old = load(toy_bundle.write(tmp_path / "old", schema="1.0"), threads=1)
    assert old.bundle.manifest.schema_ == "1.0"
    for prompt in ("b a", "a", "", "a b c d"):
        assert old.generate(IMAGE, prompt).ids == session.generate(IMAGE, prompt).ids


def test_answer_stops_where_it_should(session: Session) -> None:
    assert session.generate(IMAGE, "a", max_new_tokens=2).text == "b c"
    # Behind <bos> the image is the end of the prompt. Its slots are 0: the rule gives 1, then 2, which is <eos>.
    answer = session.generate(IMAGE, "")
    assert (answer.ids, answer.text) == ([1], "")


def test_longest_prompt(session: Session) -> None:
    assert session.generate(IMAGE, "a b c d").text == "e f ?"
    with pytest.raises(RequestError, match="6 ids"):
        session.generate(IMAGE, "a b c d e")


def test_size_bias_off_reaches_the_graph(tmp_path: Path) -> None:
    session = load(toy_bundle.write(tmp_path / "off", size_bias=False), threads=1)
    assert session.generate(IMAGE, "c", max_new_tokens=1).text == "b"


def test_prompt_as_ids(session: Session) -> None:
    assert session.generate(IMAGE, [1, 3], max_new_tokens=1).text == "b"


def test_public_name(folder: Path) -> None:
    assert tokexport.load is load
    assert isinstance(tokexport.load(str(folder)), OrtSession)
    assert isinstance(tokexport.load(open_bundle(folder)), OrtSession)


def test_unknown_runtime(folder: Path) -> None:
    with pytest.raises(RequestError, match="Did you mean ort"):
        load(folder, runtime="orrt")


def test_graphs_are_loaded_when_they_are_run(session: Session) -> None:
    assert isinstance(session, OrtSession)
    assert session._sessions == {}
    session.encode(PIXELS)
    first = session._sessions["encoder"]
    session.encode(PIXELS)
    assert list(session._sessions) == ["encoder"]
    assert session._sessions["encoder"] is first


def test_threads_reach_onnxruntime(folder: Path) -> None:
    session = OrtSession(open_bundle(folder), threads=1, inter_threads=2)
    options = session.session("encoder").get_session_options()
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (1, 2)


@pytest.mark.parametrize("image", ["file", "pillow", "bytes", "array"])
def test_encode_takes_images_and_arrays(session: Session, tmp_path: Path, image: str) -> None:
    IMAGE.save(tmp_path / "image.png")
    given: Any = {"file": tmp_path / "image.png", "pillow": IMAGE, "bytes": np.asarray(IMAGE), "array": PIXELS}[image]
    outputs = session.encode(given)
    assert sorted(outputs) == ["assignment", "kept_indices", "sizes", "tokens"]
    assert outputs["tokens"].shape == (1, 2, 1)


def test_8_bit_array_must_be_an_image(session: Session) -> None:
    with pytest.raises(RequestError, match=r"\[height, width, 3\], not \[4, 4\]"):
        session.encode(np.zeros((4, 4), np.uint8))


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, r"needs input 'pixel_values'.*float32 \[1, 3, 4, 4\]"),
        ({"pixel_value": PIXELS}, "no input 'pixel_value'.*Did you mean pixel_values"),
        ({"pixel_values": PIXELS, "extra": PIXELS}, "no input 'extra'"),
        ({"pixel_values": PIXELS.astype(np.float64)}, r"is float64 \[1, 3, 4, 4\].*Expected float32 \[1, 3, 4, 4\]"),
        ({"pixel_values": PIXELS[:, :2]}, r"is float32 \[1, 2, 4, 4\].*Expected float32"),
        ({"pixel_values": PIXELS[0]}, r"is float32 \[3, 4, 4\]"),
        ({"pixel_values": PIXELS[..., None]}, r"is float32 \[1, 3, 4, 4, 1\]"),
        ({"pixel_values": PIXELS.tolist()}, "is a list, not a numpy array"),
    ],
)
def test_inputs_are_checked_by_role_name(session: Session, inputs: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        session.run("encoder", **inputs)


def test_dynamic_axis_takes_any_length(session: Session) -> None:
    record = session.bundle.graph("encoder")
    record.inputs["pixel_values"] = TensorRecord(name="pixel_values", dtype="float32", shape=[-1, 3, 4, 4])
    session.run("encoder", pixel_values=PIXELS)
    with pytest.raises(RequestError, match=r"Expected float32 \[any, 3, 4, 4\]"):
        session.run("encoder", pixel_values=PIXELS[:, :1])


def test_role_names_are_mapped_to_the_graphs_own(tmp_path: Path) -> None:
    renamed = toy_bundle.ENCODER.replace("pixel_values", "input.1").replace("(input.1", "(x1").replace("input.1", "x1")
    out = toy_bundle.write(tmp_path / "toy", encoder=renamed)
    bundle = open_bundle(out)
    inputs = bundle.graph("encoder").inputs
    inputs["pixel_values"] = inputs.pop("x1")
    assert inputs["pixel_values"].name == "x1"
    assert load(bundle, threads=1).encode(IMAGE)["tokens"].shape == (1, 2, 1)


def test_manifest_that_names_another_tensor(folder: Path) -> None:
    bundle = open_bundle(folder)
    bundle.graph("encoder").outputs["tokens"].name = "elsewhere"
    with pytest.raises(BundleError, match="no tensor 'elsewhere'"):
        load(bundle).encode(PIXELS)


def test_broken_graph_is_named(tmp_path: Path) -> None:
    out = toy_bundle.write(tmp_path / "toy")
    path = out / "encoder.onnx"
    path.write_bytes(b"\0" * path.stat().st_size)
    with pytest.raises(GraphError, match=r"cannot load it.*encoder\.onnx"):
        load(out).encode(PIXELS)


def test_graph_that_fails_while_it_runs(session: Session) -> None:
    inputs = {
        "inputs_embeds": np.zeros((1, 7, 1), np.float32),
        "kept_indices": np.zeros((1, 2), np.int64),
        "token_bias": np.zeros((1, 2), np.float32),
        "last_index": np.array([99]),
    }
    with pytest.raises(GraphError, match=r"ONNX Runtime failed: .*\(prefill\)"):
        session.run("prefill", **inputs)


def test_plugin_form_is_not_for_onnxruntime(folder: Path) -> None:
    with pytest.raises(RequestError, match="plugin form"):
        load(folder, form="plugin")


def test_missing_onnxruntime_says_how_to_get_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingError, match=r'pip install "tokexport\[ort\]"'):
        load(folder)


def test_bundle_without_language_or_processor(folder: Path) -> None:
    bundle = open_bundle(folder)
    bundle.manifest.processor.kind = "none"
    with pytest.raises(RequestError, match="no text processor"):
        load(bundle).generate(IMAGE, "a")
    assert load(bundle, threads=1).generate(IMAGE, [1, 3]).text == ""
    bundle.manifest.preprocess = None
    with pytest.raises(RequestError, match="does not say how a picture"):
        load(bundle).encode(IMAGE)
    bundle.manifest.variants[0].generation = None
    with pytest.raises(RequestError, match=r"no language graphs.*--parts all"):
        load(bundle).generate(IMAGE, "a")


def test_special_ids_must_agree(folder: Path) -> None:
    bundle = open_bundle(folder)
    assert bundle.manifest.variants[0].generation is not None
    bundle.manifest.variants[0].generation.eos = [3]
    with pytest.raises(BundleError, match="bos, pad and eos"):
        load(bundle).generate(IMAGE, "a")


@pytest.mark.parametrize("prompt", [None, 3, [1.5]])
def test_prompt_is_text_or_ids(session: Session, prompt: Any) -> None:
    with pytest.raises(RequestError, match="neither text nor a list of ids"):
        session.generate(Image.new("RGB", (8, 8)), prompt)


class Counted:
    """A session of onnxruntime that notes how it is run."""

    def __init__(self, session: Any, ran: list[Any]) -> None:
        self.session, self.ran = session, ran

    def __getattr__(self, name: str) -> Any:
        if name in ("run", "run_with_iobinding"):
            self.ran.append(name)
        return getattr(self.session, name)


def run_by(session: Session, prompt: str) -> list[str]:
    """How prefill and decode were run to answer."""
    assert isinstance(session, OrtSession)
    ran: list[str] = []
    for role in ("prefill", "decode"):
        session._sessions[role] = Counted(session.session(role), ran)  # type: ignore[assignment]
    session.generate(IMAGE, prompt)
    return ran


def test_caches_are_bound_once_and_each_step_writes_its_slice_into_them(session: Session) -> None:
    run = session.steps()
    encoded = session.encode(PIXELS)
    ids = np.array([[1, 3, 4, 0, 0]])
    embeds = run("embed", input_ids=ids, tokens=encoded["tokens"])["inputs_embeds"]
    bias, index = np.zeros((1, 2), np.float32), np.array([4])
    fed = {"kept_indices": encoded["kept_indices"], "token_bias": bias, "last_index": index}
    first = run("prefill", inputs_embeds=embeds, **fed)
    logits = first["logits"]
    caches = KVCache(first)
    buffers = dict(caches.inputs)
    for step, word in enumerate((5, 6)):
        at = index + step + 1
        made = run("decode", input_ids=np.array([[word]]), write_index=at, token_bias=bias, **caches.inputs)
        assert made["new_key_0"].shape == (1, 1, 1, 1)
        caches.keep(made, at)
    assert all(caches.inputs[name] is buffers[name] for name in buffers)
    assert isinstance(run, BoundSteps)
    assert all(run._bound["decode"][1][name] is buffers[name] for name in buffers)
    np.testing.assert_array_equal(buffers["past_key_0"].ravel(), [1, 0, 0, 3, 4, 5, 6, 0, 0, 0, 0])
    np.testing.assert_array_equal(buffers["past_value_0"].ravel(), [1, 0, 0, 3, 4, -5, -6, 0, 0, 0, 0])
    # Logits are the caller's own, and a next prefill begins anew in the same memory.
    again = run("prefill", inputs_embeds=embeds, **fed)["logits"]
    np.testing.assert_array_equal(again, logits)
    assert not np.shares_memory(again, logits)
    np.testing.assert_array_equal(buffers["past_key_0"].ravel(), [1, 0, 0, 3, 4, 0, 0, 0, 0, 0, 0])


@pytest.mark.parametrize("bound", [True, False])
def test_states_are_replaced_at_every_step(
    tmp_path: Path, session: Session, monkeypatch: pytest.MonkeyPatch, bound: bool
) -> None:
    hybrid = load(toy_bundle.write(tmp_path / "hybrid", schema="2.2", **toy_bundle.STATEFUL), threads=1)
    assert isinstance(hybrid, OrtSession) and isinstance(hybrid.steps(), BoundSteps)
    if not bound:
        monkeypatch.setattr(OrtSession, "steps", lambda self: self.run)
    for prompt in ("b a", "a b c d", "b a"):
        assert hybrid.generate(IMAGE, prompt).ids == session.generate(IMAGE, prompt).ids
    steps = hybrid.steps()
    state, new = np.full((1, 1), 3, np.float32), np.zeros((1, 1, 11, 1), np.float32)
    fed = {"input_ids": np.array([[4]]), "write_index": np.array([6]), "token_bias": np.zeros((1, 2), np.float32)}
    made = steps("decode", **fed, past_key_0=new, past_value_0=new, state_conv_0=state)
    assert made["logits"].argmax() == 5 and made["new_state_conv_0"] == 4 and state == 3


def test_caches_that_are_not_those_bound_are_read_all_the_same(session: Session) -> None:
    bias, cache = np.zeros((1, 2), np.float32), np.arange(11, dtype=np.float32).reshape(1, 1, 11, 1)
    fed = {"input_ids": np.array([[4]]), "write_index": np.array([6]), "token_bias": bias}
    for shift in (0, 1):
        made = session.steps()("decode", **fed, past_key_0=cache + shift, past_value_0=cache)
        assert made["logits"].argmax() == 5 + 2 + shift


def test_each_answer_has_its_caches(session: Session) -> None:
    # Two at once must not write into each other's.
    assert session.steps() is not session.steps()


def test_schema_1_dynamic_axes_and_other_providers_are_run_plainly(tmp_path: Path, folder: Path) -> None:
    new, old = load(folder, threads=1), load(toy_bundle.write(tmp_path / "old", schema="1.0"), threads=1)
    assert run_by(new, "b a") == ["run_with_iobinding"] * 4
    assert run_by(old, "b a") == ["run"] * 4
    dynamic = load(folder, threads=1)
    dynamic.variant.graphs["decode"].outputs["logits"].shape[0] = -1
    assert run_by(dynamic, "b a") == ["run"] * 4
    elsewhere = load(folder, threads=1)
    assert isinstance(elsewhere, OrtSession)
    elsewhere._provider = "CUDAExecutionProvider"
    assert elsewhere.steps() == elsewhere.run


def test_a_bound_graph_that_fails_or_is_fed_wrongly_is_named(session: Session) -> None:
    fed = {
        "inputs_embeds": np.zeros((1, 7, 1), np.float32),
        "kept_indices": np.zeros((1, 2), np.int64),
        "token_bias": np.zeros((1, 2), np.float32),
        "last_index": np.array([99]),
    }
    with pytest.raises(GraphError, match=r"ONNX Runtime failed: .*\(prefill\)"):
        session.steps()("prefill", **fed)
    with pytest.raises(RequestError, match=r"last_index.* is float32.*Expected int64 \[1\]"):
        session.steps()("prefill", **{**fed, "last_index": np.zeros(1, np.float32)})
    session.variant.graphs["prefill"].outputs["logits"].dtype = "float16"
    with pytest.raises(GraphError, match=r"ONNX Runtime failed: .*output.*\(prefill\)"):
        session.steps()("prefill", **{**fed, "last_index": np.array([3])})
