"""Sessions over engines, on stand-ins for TensorRT and CUDA: what is allocated, captured, replayed and kept.

That a real GPU does the same is what tests/gpu/test_engines_gpu.py is for.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import stand_in_gpu
import tokexport
import toy_bundle
from PIL import Image
from tokexport.errors import GateError, MissingError, RequestError
from tokexport.runtimes.bundle.reader import open_bundle, verify_hashes
from tokexport.runtimes.load import load
from tokexport.runtimes.tensorrt.engine_graph import engine_runner
from tokexport.runtimes.tensorrt.engines.build import build_engines
from tokexport.runtimes.tensorrt.failures import EngineDeviceError, EngineStaleError, EngineVersionError
from tokexport.runtimes.tensorrt.graph import OnDevice
from tokexport.runtimes.tensorrt.session import TensorRTSession

from plugins import toy_cmake

pytest.importorskip("onnxruntime")
IMAGE = Image.new("RGB", (9, 5), "red")
PIXELS = np.zeros((1, 3, 4, 4), np.float32)
DEVICE = "sm87"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = toy_bundle.write(tmp_path_factory.mktemp("engines") / "toy")
    with stand_in_gpu.installed():
        build_engines(open_bundle(folder))
    return folder


@pytest.fixture
def gpu() -> Iterator[Any]:
    """The stand-in for CUDA, with nothing called yet."""
    with stand_in_gpu.installed() as patch:
        from cuda.bindings import runtime

        runtime.patch = patch
        yield runtime


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made, tmp_path / "toy")


def opened(folder: Path, **options: Any) -> TensorRTSession:
    session = load(folder, "tensorrt", **options)
    assert isinstance(session, TensorRTSession)
    return session


def sidecar(folder: Path, role: str = "encoder", **changes: Any) -> None:
    path = folder / f"engines/{DEVICE}/toy-0.5.{role}.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_answers_are_those_of_onnxruntime(gpu: Any, made: Path) -> None:
    session = opened(made)
    for prompt in ("b a", "a", "", "a b c d", "b a"):
        expected, answer = load(made, threads=1).generate(IMAGE, prompt), session.generate(IMAGE, prompt)
        assert (answer.text, answer.ids) == (expected.text, expected.ids)
        np.testing.assert_array_equal(answer.sizes, expected.sizes)
    assert session.notes() == []


def test_a_graph_is_run_captured_and_replayed_in_that_order(gpu: Any, made: Path) -> None:
    session = opened(made)
    results = []
    for _ in range(4):
        results.append(session.encode(PIXELS + len(results))["tokens"])
    graph = session.graph("encoder")
    assert graph.launches == {"direct": 1, "captured": 1, "replayed": 2}
    work = [call for call in gpu.CALLS if "Capture" in call or "Launch" in call]
    assert work == ["cudaStreamBeginCapture", "cudaStreamEndCapture", *["cudaGraphLaunch"] * 3]
    # Results are the caller's own: a next run does not change them.
    assert all(result.base is None for result in results)


def test_replayed_graphs_read_their_new_inputs(gpu: Any, made: Path) -> None:
    session, reference = opened(made), load(made, threads=1)
    rng = np.random.default_rng(0)
    for _ in range(4):
        inputs = {"input_ids": rng.integers(0, 9, (1, 5)), "tokens": rng.normal(size=(1, 2, 1)).astype(np.float32)}
        got, expected = session.run("embed", **inputs), reference.run("embed", **inputs)
        np.testing.assert_array_equal(got["inputs_embeds"], expected["inputs_embeds"])


def test_buffers_are_allocated_once_and_freed_once(gpu: Any, made: Path) -> None:
    session = opened(made)
    for _ in range(3):
        session.generate(IMAGE, "b a")
    allocated = gpu.CALLS.count("cudaMalloc")
    for _ in range(3):
        session.generate(IMAGE, "a")
    assert gpu.CALLS.count("cudaMalloc") == allocated
    del session
    assert not gpu.LIVE


def test_caches_stay_on_the_device_between_steps(gpu: Any, made: Path) -> None:
    session = opened(made)
    session.generate(IMAGE, "b a")
    decode = session.graph("decode")
    before, calls = dict(decode.launches), len(gpu.CALLS)
    steps = session.generate(IMAGE, "b a").ids
    done = gpu.CALLS[calls:]
    ran = sum(decode.launches.values()) - sum(before.values())
    # encoder 1 in, 4 out; embed 2 and 1; prefill 4 and logits; each step ids, index and bias, and logits.
    assert (ran, len(steps)) == (3, 4)
    assert done.count("upload") == 1 + 2 + 4 + 3 * ran
    assert done.count("download") == 4 + 1 + 1 + ran


def test_decode_reads_the_buffers_of_prefill_and_its_slices_are_copied_into_them(gpu: Any, made: Path) -> None:
    session = opened(made)
    session.generate(IMAGE, "b a")
    prefill, decode = session.graph("prefill"), session.graph("decode")
    calls = len(gpu.CALLS)
    assert len(session.generate(IMAGE, "b a").ids) == 4
    # Three steps, and in each a key and a value; nothing else is copied on the device.
    assert gpu.CALLS[calls:].count("copy rows") == 2 * 3
    assert "copy" not in gpu.CALLS
    # Bound in one way, whatever was asked.
    assert decode.launches == {"direct": 1, "captured": 1, "replayed": 4}
    addresses = decode._addresses
    assert {f"past_{kind}_0": prefill.outputs[f"present_{kind}_0"].device.address for kind in ("key", "value")} == {
        name: address for name, address in addresses.items() if name.startswith("past_")
    }
    # Caches have no buffer on the host, and decode has none of its own for them.
    assert not any("host" in vars(tensor) for name, tensor in prefill.outputs.items() if name != "logits")
    assert not any("device" in vars(tensor) for name, tensor in decode.inputs.items() if name.startswith("past_"))


def test_a_slice_goes_into_every_head_of_its_row_at_its_slot_up_to_the_last(gpu: Any) -> None:
    from tokexport.runtimes.tensorrt.cuda import Cuda

    cuda, rng = Cuda(), np.random.default_rng(0)
    expected, new = rng.normal(size=(2, 3, 4, 5)).astype(np.float16), rng.normal(size=(2, 3, 1, 5)).astype(np.float16)
    cache, piece = (
        OnDevice(cuda, cuda.device_memory(array.nbytes), array.dtype, array.shape) for array in (expected, new)
    )
    for one, array in ((cache, expected), (piece, new)):
        one.memory.array(np.float16, array.shape)[:] = array
    cache.write(piece, np.array([3, 1]))
    expected[0, :, 3], expected[1, :, 1] = new[0, :, 0], new[1, :, 0]
    np.testing.assert_array_equal(cache.memory.array(np.float16, expected.shape), expected)


def test_states_stay_on_the_device_and_are_replaced_there(gpu: Any, made: Path, tmp_path: Path) -> None:
    folder = toy_bundle.write(tmp_path / "hybrid", schema="2.2", **toy_bundle.STATEFUL)
    build_engines(open_bundle(folder))
    session = opened(folder)
    for prompt in ("b a", "a", "a b c d"):
        assert session.generate(IMAGE, prompt).ids == load(made, threads=1).generate(IMAGE, prompt).ids
    calls, before = len(gpu.CALLS), dict(session.graph("decode").launches)
    session.generate(IMAGE, "b a")
    # Bound in one way from the first step on: a step copies its state over the one before.
    after = session.graph("decode").launches
    assert after["direct"] == before["direct"] == 1
    steps = sum(after.values()) - sum(before.values())
    assert steps and gpu.CALLS[calls:].count("copy") == steps
    assert gpu.CALLS[calls:].count("download") == 4 + 1 + 1 + steps


def test_engines_of_a_bundle_of_schema_1_answer_the_same(gpu: Any, made: Path, tmp_path: Path) -> None:
    folder = toy_bundle.write(tmp_path / "old", schema="1.0")
    build_engines(open_bundle(folder))
    session, reference = opened(folder), load(made, threads=1)
    for prompt in ("b a", "a", "b a"):
        assert session.generate(IMAGE, prompt).ids == reference.generate(IMAGE, prompt).ids
    calls = len(gpu.CALLS)
    assert len(session.generate(IMAGE, "b a").ids) == 4
    # The caches stay on the device, copied to where decode reads them, but for those of prefill.
    done = gpu.CALLS[calls:]
    assert (done.count("copy"), done.count("copy rows"), done.count("download")) == (4, 0, 4 + 1 + 1 + 3)


def test_what_cannot_be_captured_runs_all_the_same_and_says_so(gpu: Any, made: Path) -> None:
    gpu.patch.setitem(gpu.FAILS, "cudaStreamEndCapture", 900)
    session = opened(made)
    first = session.encode(PIXELS)["sizes"]
    with pytest.warns(RuntimeWarning, match=r"without a CUDA graph.*StreamCaptureUnsupported"):
        second = session.encode(PIXELS)["sizes"]
    np.testing.assert_array_equal(first, second)
    session.encode(PIXELS)
    assert session.graph("encoder").launches == {"direct": 3, "captured": 0, "replayed": 0}
    assert any("encoder: no CUDA graph: cudaStreamEndCapture failed" in note for note in session.notes())


def test_graphs_switched_off_are_noted(gpu: Any, made: Path) -> None:
    session = opened(made, cuda_graphs=False)
    for _ in range(3):
        session.encode(PIXELS)
    assert session.notes() == ["encoder: no CUDA graph: it was switched off"]
    assert "cudaStreamBeginCapture" not in gpu.CALLS


def test_a_full_gpu_is_named(gpu: Any, made: Path) -> None:
    gpu.patch.setitem(gpu.FAILS, "cudaMalloc", 2)
    with pytest.raises(MissingError, match=r"GPU is out of memory.*--precision fp16"):
        opened(made).encode(PIXELS)


def test_without_a_gpu_or_engines_it_says_what_to_do(gpu: Any, made: Path, tmp_path: Path) -> None:
    bare = toy_bundle.write(tmp_path / "bare")
    with pytest.raises(MissingError, match=r"no engines.*tokexport build"):
        opened(bare)
    gpu.patch.setenv("STAND_IN_SM", "none")
    with pytest.raises(MissingError, match="CUDA sees no GPU"):
        opened(made)


def test_engines_of_another_gpu_are_refused_before_they_are_read(gpu: Any, made: Path) -> None:
    gpu.patch.setenv("STAND_IN_SM", "8.9")
    with pytest.raises(EngineDeviceError, match=r"capability 8\.7, and this GPU has 8\.9"):
        opened(made)


def test_engines_of_another_version_are_refused_before_they_are_read(gpu: Any, folder: Path) -> None:
    sidecar(folder, version="10.13.3")
    with pytest.raises(
        EngineVersionError, match=r"TensorRT 10\.13\.3, and TensorRT 10\.3\.0 is installed here.*tokexport build"
    ):
        opened(folder)


def test_a_version_that_only_the_plan_knows_is_translated(gpu: Any, folder: Path) -> None:
    sidecar(folder, version="10.4.0")
    gpu.patch.setenv("STAND_IN_TENSORRT", "10.4.0")
    with pytest.raises(EngineVersionError, match=r"cannot load the engine: .* another version"):
        opened(folder).encode(PIXELS)


@pytest.mark.parametrize("role", ["encoder", "decode"])
def test_a_graph_that_changed_makes_its_engine_stale(gpu: Any, folder: Path, role: str) -> None:
    sidecar(folder, role, graph={f"{role}.onnx": "0" * 64})
    with pytest.raises(EngineStaleError, match=rf"{role}\.onnx, which the engine was built of, has changed"):
        opened(folder).generate(IMAGE, "a")


def test_a_plan_that_changed_is_not_deserialized(gpu: Any, folder: Path) -> None:
    plan = folder / f"engines/{DEVICE}/toy-0.5.encoder.plan"
    content = bytearray(plan.read_bytes())
    content[-1] ^= 1
    plan.write_bytes(content)
    with pytest.raises(EngineStaleError, match="not the one that its sidecar describes"):
        opened(folder).encode(PIXELS)
    plan.unlink()
    with pytest.raises(EngineStaleError, match="is missing"):
        opened(folder)


def test_a_plugin_without_its_library_is_named(gpu: Any, folder: Path, tmp_path: Path) -> None:
    gpu.patch.setenv("XDG_CACHE_HOME", str(tmp_path))
    gpu.patch.delenv("TOKEXPORT_PLUGINS", raising=False)
    sidecar(folder, plugins={"names": ["TokexportApet"], "library": "0" * 64})
    with pytest.raises(MissingError, match=r"TokexportApet, .*no plugin library on this machine.*plugins build"):
        opened(folder).encode(PIXELS)


def test_the_plugins_of_an_engine_are_known_before_a_part_of_it_is_loaded(
    gpu: Any, folder: Path, tmp_path: Path
) -> None:
    library, offered = toy_cmake.library(tmp_path), []
    gpu.patch.setenv("TOKEXPORT_PLUGINS", str(library))
    gpu.patch.setattr("tokexport.runtimes.tensorrt.session.load_plugins", lambda api, *told: offered.append(told))
    sidecar(folder, plugins={"names": ["TokexportApet"], "library": "0" * 64})
    with engine_runner(open_bundle(folder)):
        assert offered == [(["TokexportApet"], library)]


def test_a_plugin_library_that_was_compiled_for_another_gpu_is_refused(gpu: Any, folder: Path, tmp_path: Path) -> None:
    gpu.patch.setenv("TOKEXPORT_PLUGINS", str(toy_cmake.library(tmp_path, "89-real 120")))
    sidecar(folder, plugins={"names": ["TokexportApet"], "library": "0" * 64})
    with pytest.raises(MissingError, match=r"for 89-real, 120, and this GPU has .*8\.7.*Unset .*plugins build"):
        opened(folder).encode(PIXELS)


def test_an_engine_nobody_looked_at_is_looked_at_when_it_is_loaded(gpu: Any, folder: Path) -> None:
    sidecar(folder, layers=[{"stage": "network", "layers": 1, "compared": 1}])
    session = opened(folder)
    session.encode(PIXELS)
    (note,) = session.notes()
    assert "tensors of the engine have the types that the graph asks for" in note
    gpu.patch.setattr("tokexport.runtimes.tensorrt.layers.asked", lambda model: {"pixel_values": "FLOAT16"})
    with pytest.raises(GateError, match="pixel_values: asked FLOAT16, is FLOAT"):
        opened(folder).encode(PIXELS)


def test_engines_of_two_devices_must_be_told_apart(gpu: Any, folder: Path) -> None:
    other = folder / "engines/other"
    shutil.copytree(folder / f"engines/{DEVICE}", other)
    for path in other.glob("*.json"):
        path.write_text(path.read_text().replace(f'"{DEVICE}"', '"other"'))
    with pytest.raises(RequestError, match=r"other and sm87 all run here.*device='other'"):
        opened(folder)
    assert opened(folder, device="other").device == "other"
    with pytest.raises(RequestError, match="no engines for 'orin'"):
        opened(folder, device="orin")


def test_engines_are_no_part_of_the_bundle(made: Path) -> None:
    bundle = open_bundle(made)
    assert not any("engines" in name for name in bundle.manifest.files)
    assert verify_hashes(bundle) == len(bundle.manifest.files)


def test_bench_times_the_engines_in_a_process_of_its_own(gpu: Any, made: Path) -> None:
    result = tokexport.bench(made, runtime="tensorrt", rounds=2, tokens=[2])
    (one,) = result["bundles"]
    assert list(one["stages"]) == ["encoder", "prefill", "first_token", "token", "answer_2"]
    assert result["provider"] is None and one["unknown"]["device memory"].startswith("not known: ")
