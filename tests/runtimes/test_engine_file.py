"""Sidecars: what is refused before anybody asks TensorRT."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import toy_bundle
from tokexport.errors import MissingError
from tokexport.runtimes.bundle.manifest import FileRecord
from tokexport.runtimes.bundle.reader import Bundle, open_bundle
from tokexport.runtimes.tensorrt.engines import file as engine_file
from tokexport.runtimes.tensorrt.engines.file import EngineRecord, PluginRecord
from tokexport.runtimes.tensorrt.failures import EngineError, EngineStaleError

DEVICE, VARIANT, ROLE = "sm87", "toy-0.5", "encoder"


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    """With one engine: a plan of four bytes and its sidecar."""
    bundle = open_bundle(toy_bundle.write(tmp_path / "b"))
    plan = engine_file.plan_path(bundle, DEVICE, VARIANT, ROLE)
    engine_file.put(plan, b"plan")
    record = EngineRecord(
        tokexport="0.1.0",
        role=ROLE,
        variant=VARIANT,
        device=DEVICE,
        form="portable",
        precision="fp32",
        graph={"encoder.onnx": bundle.manifest.files["encoder.onnx"].sha256},
        runtime="tensorrt",
        version="10.3.0",
        compute_capability="8.7",
        plan=FileRecord(size=4, sha256=engine_file.sha256(plan)),
        plugins=PluginRecord(),
        layers=[],
    )
    engine_file.write(bundle, record)
    return bundle


def sidecar(bundle: Bundle) -> Path:
    return engine_file.plan_path(bundle, DEVICE, VARIANT, ROLE).with_suffix(".json")


def changed(bundle: Bundle, **changes: Any) -> None:
    sidecar(bundle).write_text(json.dumps({**json.loads(sidecar(bundle).read_text()), **changes}))


def test_what_was_written_is_read_and_fits(bundle: Bundle) -> None:
    record = engine_file.read(bundle, DEVICE, VARIANT, ROLE)
    assert engine_file.devices(bundle, VARIANT) == [DEVICE]
    assert engine_file.check(bundle, record, "tensorrt", "10.3.0", "8.7").read_bytes() == b"plan"
    assert [path.name for path in engine_file.folder(bundle, DEVICE).iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"plan": 3}, "is damaged at plan: "),
        ({"role": None}, "is damaged at role: "),
        ({"graph": {"../up.onnx": "0"}}, r"is damaged at graph\.\.\./up\.onnx"),
        ({"schema": "2.0"}, r"has schema 2\.0, and this tokexport reads 1\.x"),
        ({"role": "decode"}, r"is that of decode of toy-0\.5 for sm87"),
        ({"device": "sm89"}, r"is that of encoder of toy-0\.5 for sm89"),
    ],
)
def test_a_sidecar_that_says_something_else(bundle: Bundle, changes: dict[str, Any], words: str) -> None:
    changed(bundle, **changes)
    with pytest.raises(EngineError, match=f"{words}.*tokexport build .* --device sm87"):
        engine_file.read(bundle, DEVICE, VARIANT, ROLE)


def test_a_newer_minor_schema_is_read(bundle: Bundle) -> None:
    changed(bundle, schema="1.9", colour="blue")
    assert engine_file.read(bundle, DEVICE, VARIANT, ROLE).role == ROLE


def test_a_sidecar_that_was_cut_short_or_is_not_there(bundle: Bundle) -> None:
    sidecar(bundle).write_text(sidecar(bundle).read_text()[:-20])
    with pytest.raises(EngineError, match="is damaged"):
        engine_file.read(bundle, DEVICE, VARIANT, ROLE)
    sidecar(bundle).unlink()
    with pytest.raises(MissingError, match="no engine of encoder for sm87"):
        engine_file.read(bundle, DEVICE, VARIANT, ROLE)


def test_what_to_type_can_be_typed(tmp_path: Path) -> None:
    bundle = open_bundle(toy_bundle.write(tmp_path / "a bundle"))
    assert engine_file.build_command(bundle, VARIANT) == f"tokexport build '{tmp_path}/a bundle'"


def test_links_lead_out_of_a_bundle(bundle: Bundle, tmp_path: Path) -> None:
    record = engine_file.read(bundle, DEVICE, VARIANT, ROLE)
    plan = engine_file.plan_path(bundle, DEVICE, VARIANT, ROLE)
    plan.rename(tmp_path / "elsewhere")
    plan.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(EngineStaleError, match="not the one that its sidecar describes"):
        engine_file.check(bundle, record, "tensorrt", "10.3.0", "8.7")
    engine_file.folder(bundle, DEVICE).rename(tmp_path / "folder")
    engine_file.folder(bundle, DEVICE).symlink_to(tmp_path / "folder")
    with pytest.raises(EngineError, match="is a symbolic link"):
        engine_file.read(bundle, DEVICE, VARIANT, ROLE)


def test_size_alone_is_looked_at_where_the_content_is_not_asked_for(bundle: Bundle) -> None:
    record = engine_file.read(bundle, DEVICE, VARIANT, ROLE)
    plan = engine_file.plan_path(bundle, DEVICE, VARIANT, ROLE)
    plan.write_bytes(b"naln")
    assert engine_file.check(bundle, record, "tensorrt", "10.3.0", "8.7", content=False) == plan
    with pytest.raises(EngineStaleError):
        engine_file.check(bundle, record, "tensorrt", "10.3.0", "8.7")
