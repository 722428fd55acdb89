"""`build_engines` on a stand-in for TensorRT: what a build leaves behind, also one that fails."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import stand_in_gpu
import toy_bundle
from tokexport.errors import BundleError, MissingError, RequestError
from tokexport.runtimes import engine_file
from tokexport.runtimes.engine_build import build_engines, choose_runtime
from tokexport.runtimes.engine_errors import BuildMemoryError, EngineStaleError
from tokexport.runtimes.reader import open_bundle

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


def test_a_timing_cache_that_is_not_the_pinned_one_is_refused(folder: Path, patch: Any) -> None:
    path = folder / "engines/orin-nano-8gb/toy-0.5.timing.cache"
    path.write_text(path.read_text().replace("4", "5"))
    before = contents(folder)
    with pytest.raises(EngineStaleError, match=r"timing cache is not the one.*rm .*timing\.cache"):
        build_engines(open_bundle(folder), device="orin-nano-8gb")
    assert contents(folder) == before


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
    with pytest.raises(MissingError, match=r"TensorRT 8\.6\.1 is installed, and versions 10\.3 to 11\.x are served"):
        choose_runtime("tensorrt")
    with pytest.raises(RequestError, match="unknown runtime 'trt'"):
        choose_runtime("trt")
