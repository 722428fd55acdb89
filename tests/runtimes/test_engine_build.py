"""`build_engines` on a stand-in for TensorRT: what a build leaves behind, also one that fails."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import stand_in_gpu
import toy_bundle
from tokexport.errors import BundleError, MissingError, RequestError
from tokexport.runtimes.bundle.reader import open_bundle
from tokexport.runtimes.tensorrt.engines import file as engine_file
from tokexport.runtimes.tensorrt.engines import task as engine_task
from tokexport.runtimes.tensorrt.engines.build import build_engines, choose_runtime
from tokexport.runtimes.tensorrt.failures import BuildMemoryError, EngineStaleError

from plugins import toy_cmake

pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = toy_bundle.write(tmp_path_factory.mktemp("build") / "toy")
    with stand_in_gpu.installed():
        build_engines(open_bundle(folder), device="orin-nano-8gb")
    return folder


@pytest.fixture
def patch() -> Iterator[pytest.MonkeyPatch]:
    with stand_in_gpu.installed() as patch:
        yield patch


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made, tmp_path / "toy")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_plan_and_sidecar_say_the_same(made: Path) -> None:
    bundle, engines = open_bundle(made), made / "engines/orin-nano-8gb"
    roles = sorted(bundle.variant().graphs)
    names = {f"toy-0.5.{role}{suffix}" for role in roles for suffix in (".plan", ".json")}
    assert {path.name for path in engines.iterdir()} == names | {"toy-0.5.timing.cache"}
    timing = hashlib.sha256((engines / "toy-0.5.timing.cache").read_bytes()).hexdigest()
    for role in roles:
        record = engine_file.read(bundle, "orin-nano-8gb", "toy-0.5", role)
        assert record.plan.sha256 == hashlib.sha256((engines / f"toy-0.5.{role}.plan").read_bytes()).hexdigest()
        assert record.graph == {f"{role}.onnx": bundle.manifest.files[f"{role}.onnx"].sha256}
        assert (record.runtime, record.version, record.compute_capability) == ("tensorrt", "10.3.0", "8.7")
        assert (record.form, record.timing_cache) == ("portable", timing)
        # A quarter of what programs see of the memory that the GPU shares.
        assert record.workspace == int(7.6 * 2**30 / 4)
        assert [look.stage for look in record.layers] == ["network", "engine"]
        assert all(look.compared > 0 for look in record.layers)


def test_a_rebuild_begins_with_the_timing_cache_and_pins_the_new_one(folder: Path, patch: Any) -> None:
    path = folder / "engines/orin-nano-8gb/toy-0.5.timing.cache"
    assert json.loads(path.read_text())["builds"] == 4
    heard: list[tuple[int, int, str]] = []
    build_engines(open_bundle(folder), device="orin-nano-8gb", advance=lambda *told: heard.append(told))
    assert json.loads(path.read_text())["builds"] == 8
    record = engine_file.read(open_bundle(folder), "orin-nano-8gb", "toy-0.5", "encoder")
    assert record.timing_cache == hashlib.sha256(path.read_bytes()).hexdigest()
    # Progress goes on, from graph to graph, to the end.
    shares = [done for done, _, _ in heard]
    assert shares == sorted(shares) and shares[0] == 0 and shares[-1] == heard[-1][1] == 400
    assert [what for _, _, what in heard if what.startswith("decode")][-1] == "decode: Building engine"


def test_every_variant_is_built_unless_one_is_named(folder: Path, patch: Any) -> None:
    manifest = folder / "manifest.json"
    data = json.loads(manifest.read_text())
    (first,) = data["variants"]
    other = {**first, "name": "other", "graphs": {"encoder": first["graphs"]["encoder"]}, "generation": None}
    manifest.write_text(json.dumps(data | {"variants": [first, other]}))
    shutil.rmtree(folder / "engines")
    heard: list[tuple[int, int, str]] = []
    one = build_engines(open_bundle(folder), device="orin-nano-8gb", variant="other")
    assert (one["variant"], one["further"]) == ("other", [])
    assert not list((folder / "engines").rglob("toy-0.5.*"))
    done = build_engines(open_bundle(folder), device="orin-nano-8gb", advance=lambda *told: heard.append(told))
    assert [result["variant"] for result in (done, *done["further"])] == ["toy-0.5", "other"]
    plans = [engine["plan"] for result in (done, *done["further"]) for engine in result["engines"]]
    assert len({*plans}) == 5 and all((folder / plan).is_file() for plan in plans)
    shares = [share for share, _, _ in heard]
    assert shares == sorted(shares) and shares[-1] == heard[-1][1] == 500 and heard[-1][2].startswith("other encoder:")


def test_a_timing_cache_that_is_not_the_pinned_one_is_refused(folder: Path, patch: Any) -> None:
    path = folder / "engines/orin-nano-8gb/toy-0.5.timing.cache"
    path.write_text(path.read_text().replace("4", "5"))
    before = contents(folder)
    with pytest.raises(EngineStaleError, match=r"timing cache is not the one.*rm .*timing\.cache"):
        build_engines(open_bundle(folder), device="orin-nano-8gb")
    assert contents(folder) == before


@pytest.mark.parametrize("kind", ["timing", "runtime"])
def test_a_cache_behind_a_link_is_not_read(folder: Path, tmp_path: Path, kind: str) -> None:
    path = folder / f"engines/orin-nano-8gb/toy-0.5.{kind}.cache"
    path.write_bytes(b"kept")
    assert engine_file.cached(open_bundle(folder), path) == b"kept"
    path.rename(tmp_path / "elsewhere")
    assert engine_file.cached(open_bundle(folder), path) is None
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(EngineStaleError, match=rf"{kind} cache is a symbolic link.*rm .*{kind}\.cache"):
        engine_file.cached(open_bundle(folder), path)


def test_a_timing_cache_behind_a_link_is_refused(folder: Path, patch: Any, tmp_path: Path) -> None:
    path = folder / "engines/orin-nano-8gb/toy-0.5.timing.cache"
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    before = contents(tmp_path)
    with pytest.raises(EngineStaleError, match=r"symbolic link.*rm .*timing\.cache"):
        build_engines(open_bundle(folder), device="orin-nano-8gb")
    assert contents(tmp_path) == before


@pytest.mark.parametrize("content", ["", '{"schema": "2.0"}', None])
def test_a_damaged_sidecar_is_no_reason_not_to_build(folder: Path, content: str | None) -> None:
    engines, roles = folder / "engines/orin-nano-8gb", ["encoder", "decode"]
    path = engines / "toy-0.5.decode.json"
    path.unlink() if content is None else path.write_text(content)
    found = engine_file.pinned_timing_cache(open_bundle(folder), engines.name, "toy-0.5", roles)
    assert found == (engines / "toy-0.5.timing.cache").read_bytes()


def test_engines_are_not_built_where_they_are_not_read(folder: Path, patch: Any, tmp_path: Path) -> None:
    (folder / "engines").rename(tmp_path / "elsewhere")
    (folder / "engines").symlink_to(tmp_path / "elsewhere")
    before = contents(tmp_path / "elsewhere")
    with pytest.raises(BundleError, match="is a symbolic link, and engines behind one are not read"):
        build_engines(open_bundle(folder), device="orin-nano-8gb")
    assert contents(tmp_path / "elsewhere") == before


@pytest.mark.parametrize("name", ["../../../victim", "sub/victim", "..", "/victim"])
def test_engines_stay_in_the_bundle_whatever_its_variant_is_called(
    folder: Path, patch: Any, tmp_path: Path, name: str
) -> None:
    victim = tmp_path / "victim.encoder.json"
    victim.write_text("mine")
    manifest = folder / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"name": "toy-0.5"', f'"name": "{name}"'))
    with pytest.raises(BundleError, match=r"variants\.0\.name"):
        build_engines(open_bundle(folder), device="orin-nano-8gb")
    assert victim.read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["toy", "victim.encoder.json"]


def test_builds_at_once_put_their_engines_in_place_one_after_the_other(folder: Path, patch: Any) -> None:
    held, stale = [], folder / "engines/orin-nano-8gb/toy-0.5.encoder.runtime.cache"
    stale.write_bytes(b"kernels of the plan that is replaced")

    def watch(call: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*arguments: Any) -> Any:
            descriptor = os.open(folder / "engines/orin-nano-8gb", os.O_RDONLY)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                held.append(call.__name__)
            finally:
                os.close(descriptor)
            return call(*arguments)

        return watched

    for call in (engine_file.pinned_timing_cache, engine_file.put):
        patch.setattr(engine_file, call.__name__, watch(call))
    build_engines(open_bundle(folder), device="orin-nano-8gb")
    # What pins the timing cache is read when no other build is replacing it; then that cache and four sidecars.
    assert held == ["pinned_timing_cache", *["put"] * 5]
    assert not stale.exists()


def test_what_cannot_be_put_in_place_or_written_is_named(folder: Path, patch: Any) -> None:
    path = folder / "engines/orin-nano-8gb/toy-0.5.encoder.plan"
    path.unlink()
    (path / "in the way").mkdir(parents=True)
    with pytest.raises(BundleError, match=r"the engine cannot be written: Is a directory.*Copy the bundle"):
        build_engines(open_bundle(folder), device="orin-nano-8gb")
    request = {
        "kind": "tensorrt",
        "model": str(folder / "embed.onnx"),
        "weights": str(folder / "embed.onnx"),
        "plan": str(folder / "gone" / "embed.plan"),
        "timing": str(folder / "timing"),
        "timing_in": str(folder / "none"),
        "settings": {"workspace": None, "compute_capability": "8.7"},
        "plugins": [],
        "library": None,
        "inspect": False,
    }
    with pytest.raises(BundleError, match=r"cannot be written: No such file.*embed\.plan"):
        engine_task.run(request, lambda share, text: None)


def test_a_timing_cache_of_another_version_is_refused(folder: Path, patch: Any) -> None:
    patch.setenv("STAND_IN_TENSORRT", "10.13.3")
    with pytest.raises(EngineStaleError, match=r"10\.13\.3 does not take the timing cache.*Delete engines"):
        build_engines(open_bundle(folder), device="orin-nano-8gb")


def test_a_build_that_fails_leaves_the_engines_as_they_were(folder: Path, patch: Any, tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text(
        "[defaultAllocator.cpp::allocate::31] Error Code 1: Cuda Runtime (out of memory)\n"
        "IBuilder::buildSerializedNetwork: Error Code 10: Internal Error (Could not find any implementation for node)"
    )
    patch.setenv("STAND_IN_BUILD", str(log))
    before = contents(folder)
    with pytest.raises(BuildMemoryError, match=r"not enough memory to build.*Jetson") as caught:
        build_engines(open_bundle(folder), device="orin-nano-8gb")
    assert caught.value.exit_code == 3
    assert contents(folder) == before


def test_a_plugin_library_for_another_gpu_is_refused_before_it_is_run(folder: Path, patch: Any, tmp_path: Path) -> None:
    patch.setenv("TOKEXPORT_PLUGINS", str(toy_cmake.library(tmp_path, "89-real")))
    patch.setattr("tokexport.runtimes.tensorrt.engines.build.plugin_nodes", lambda model: ["TokexportApet"])
    with pytest.raises(MissingError, match=r"compiled for 89-real, and this GPU has .*8\.7"):
        build_engines(open_bundle(folder), device="orin-nano-8gb")


def test_a_graph_that_changed_on_the_disk_is_not_built(folder: Path, patch: Any) -> None:
    path = folder / "embed.onnx"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(BundleError, match=r"content of embed\.onnx has changed"):
        build_engines(open_bundle(folder), device="orin-nano-8gb")


def test_a_device_must_be_the_machine_that_builds(folder: Path, patch: Any) -> None:
    with pytest.raises(RequestError, match=r"capability 8\.7, and rtx-4090 has 8\.9.*on rtx-4090"):
        build_engines(open_bundle(folder), device="rtx-4090")
    with pytest.raises(RequestError, match=r"names TensorRT 10\.16, and TensorRT 10\.3\.0 would build"):
        build_engines(open_bundle(folder), device="orin-nano-8gb@10.16")
    patch.setenv("STAND_IN_SM", "none")
    with pytest.raises(MissingError, match="CUDA sees no GPU"):
        build_engines(open_bundle(folder), device="orin-nano-8gb")


def test_a_version_whose_api_is_not_spoken_is_refused(patch: Any) -> None:
    patch.setenv("STAND_IN_TENSORRT", "8.6.1")
    with pytest.raises(MissingError, match=r"TensorRT 8\.6\.1 is installed, and versions 10\.3 to 11\.x are supported"):
        choose_runtime("tensorrt")
    with pytest.raises(RequestError, match="unknown runtime 'trt'"):
        choose_runtime("trt")


def test_without_any_tensorrt_both_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tokexport.runtimes.tensorrt.engines.build.version_of", lambda kind: None)
    with pytest.raises(MissingError, match=r"^neither TensorRT nor .*Jetson.*need not be here.*tokexport\[rtx"):
        choose_runtime(None)
