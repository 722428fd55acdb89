"""`tokexport doctor` and `tokexport devices`, typed; and a bundle on the doctor's table."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from tokexport.errors import BundleError
from tokexport.exporter.cli import main
from tokexport.exporter.doctor import bundle as bundles
from tokexport.exporter.doctor.machine import Ran
from tokexport.runtimes.bundle.manifest import DeviceRecord, FileRecord
from tokexport.runtimes.bundle.reader import open_bundle
from tokexport.runtimes.tensorrt.engines import file as engine_file
from tokexport.runtimes.tensorrt.engines.file import EngineRecord, PluginRecord
from toy_machine import machine

from runtimes import toy_bundle

TOKEXPORT = Path(sys.executable).with_name("tokexport")


@pytest.fixture
def bundle(tmp_path) -> Path:
    return toy_bundle.write(tmp_path / "toy")


def typed(*arguments: object, code: int = 0, **environment: str) -> str:
    done = subprocess.run(
        [TOKEXPORT, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )
    assert done.returncode == code, f"{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr
    return done.stdout


def statuses(path: Path, where) -> dict[str, tuple[str, str]]:
    found = [finding for probe in bundles.probes(path) for finding in probe(where)]
    assert all(bool(finding.fix) == (finding.status != "ok") for finding in found), found
    return {finding.name: (finding.status, finding.what) for finding in found}


def test_the_doctor_looks_at_this_machine_and_at_a_bundle(bundle):
    data = json.loads(typed("doctor", "--bundle", bundle, "--json"))
    assert data["ok"] and list(data["families"]) == ["Python", "runtimes", "GPU", "machine", f"bundle {bundle}"]
    (ort,) = [one for one in data["families"]["runtimes"] if one["name"].startswith("onnxruntime")]
    assert ort["status"] == "ok" and "CPU" in ort["what"]
    found = {one["name"]: one["status"] for one in data["families"][f"bundle {bundle}"]}
    assert found == dict.fromkeys(("files", "graphs", "precision", "forms", "memory"), "ok")


def test_a_broken_package_is_a_problem_and_exit_code_3(tmp_path):
    """What raises, and what ends the process, when it is imported."""
    (tmp_path / "onnx_ir.py").write_text("raise OSError('wrong ELF class')")
    (tmp_path / "onnxruntime.py").write_text("import os; os.abort()")
    text = typed("doctor", code=3, PYTHONPATH=str(tmp_path))
    assert text.startswith("\nPython\n") and "\n  ok       " in text
    assert "cannot be imported: OSError: wrong ELF class" in text
    assert "cannot run a graph" in text and "2 problems" in text


def test_a_bundle_that_is_not_there_is_a_wrong_request_and_one_that_was_changed_a_problem(bundle, tmp_path):
    for path in (tmp_path / "nothing", tmp_path):
        with pytest.raises(BundleError):
            statuses(path, machine())
    typed("doctor", "--bundle", tmp_path / "nothing", code=2)
    processor = next(path for path in bundle.rglob("*.json") if path.name != "manifest.json")
    processor.write_bytes(processor.read_bytes().swapcase())
    status, what = statuses(bundle, machine())["files"]
    assert status == "problem" and "has changed" in what


def test_graphs_that_onnxruntime_cannot_read_are_a_problem(bundle):
    newer = {"InferenceSession": Ran(1, "", "Fail: Unsupported model IR version: 11, max supported IR version: 10")}
    assert statuses(bundle, machine(children=newer))["graphs"][0] == "problem"


def test_a_bundle_with_nothing_to_run_it_and_one_that_is_too_large(bundle):
    assert statuses(bundle, machine(packages={"onnxruntime-gpu": None}))["forms"][0] == "problem"
    assert statuses(bundle, machine(memory=(100, 50)))["memory"][0] == "problem"
    assert statuses(bundle, machine(memory=(1 << 30, 50)))["memory"][0] == "warning"


@pytest.mark.parametrize(("name", "status"), [("rtx-4090", "ok"), ("orin-nano-8gb", "warning")])
def test_the_device_of_a_bundle_is_compared_with_the_gpu_that_is_here(bundle, name, status):
    path = bundle / "manifest.json"
    data = json.loads(path.read_text())
    record = DeviceRecord(name=name, runtime="tensorrt", version="10.3", forms={"encoder": ["portable"]}, memory=1)
    data["variants"][0]["device"] = record.model_dump()
    data["variants"][0]["graphs"]["encoder"]["precision"] = "bf16"
    path.write_text(json.dumps(data))
    found = statuses(bundle, machine())
    assert found["device"][0] == status and found["precision"][0] == "warning"


@pytest.mark.parametrize(
    ("changes", "here", "status", "words"),
    [
        ({}, {}, "ok", "4 for compute capability 8.9, tensorrt 10.3.0"),
        ({}, {"gpu": None}, "ok", "8.9"),
        ({}, {"gpu": "8.7"}, "warning", "for compute capability 8.9, and this GPU has 8.7"),
        ({}, {"version": "10.14.1"}, "problem", "built by TensorRT 10.3.0, and TensorRT 10.14.1 is installed here"),
        ({}, {"version": None}, "warning", "built by TensorRT 10.3.0, which is not installed here"),
        ({"plan": FileRecord(size=4, sha256="0" * 64)}, {}, "problem", "not the one that its sidecar describes"),
        ({"graph": {"embed.onnx": "0" * 64}}, {}, "problem", "embed.onnx, which the engine was built of, has changed"),
        ({"plugins": ("a",)}, {"library": "a"}, "ok", "8.9"),
        ({"plugins": ("a",)}, {"library": "b"}, "warning", "is not the one they were built with"),
        ({"plugins": ("a",)}, {}, "warning", "there is no plugin library here"),
        ({"plugins": (None,)}, {"library": "a"}, "warning", "they cannot run"),
    ],
)
def test_the_engines_of_a_bundle_are_compared_with_what_is_here(bundle, changes, here, status, words):
    opened = open_bundle(bundle)
    for role in opened.variant().graphs:
        plan = engine_file.plan_path(opened, "sm89", "toy-0.5", role)
        engine_file.put(plan, b"plan")
        record = EngineRecord(
            tokexport="0.1.0", role=role, variant="toy-0.5", device="sm89", form="portable", precision="fp32",
            graph={f"{role}.onnx": opened.manifest.files[f"{role}.onnx"].sha256}, runtime="tensorrt",
            version="10.3.0", compute_capability="8.9",
            plan=FileRecord(size=4, sha256=engine_file.sha256(plan)), plugins=PluginRecord(), layers=[],
        )  # fmt: skip
        if role == "embed":
            given = {**changes}
            if "plugins" in given:
                given["plugins"] = PluginRecord(names=["TokexportApet"], library=given["plugins"][0])
            record = record.model_copy(update=given)
        engine_file.write(opened, record)
    seen = {"gpu": here.get("gpu", "8.9"), "library": here.get("library")}
    answer = json.dumps({**seen, "versions": {"tensorrt": here.get("version", "10.3.0"), "tensorrt-rtx": None}})
    where = machine(children={"plugins import found": Ran(0, f"{answer}\n")}, programs=())
    found = statuses(bundle, where)["engines sm89"]
    assert found[0] == status and words in found[1]


def test_a_role_without_its_engine_and_a_machine_that_cannot_be_asked(bundle):
    (bundle / "engines" / "sm89").mkdir(parents=True)
    (bundle / "engines" / "sm89" / "toy-0.5.encoder.json").write_text("{")
    assert statuses(bundle, machine())["engines sm89"][0] == "problem"
    broken = machine(children={"plugins import found": Ran(1, "", "ImportError: no")})
    assert statuses(bundle, broken)["engines"] == (
        "warning",
        "the runtimes for them cannot be checked: ImportError: no",
    )


def test_devices_are_listed():
    text = typed("devices")
    assert "orin-nano-8gb" in text and "102" in text and "8.7" in text
    assert {row["name"] for row in json.loads(typed("devices", "--json"))} >= {"thor-t5000", "rtx-4090"}


def test_a_device_is_shown_with_its_sources_and_the_rules_of_its_tensorrt():
    text = typed("devices", "orin-nano-8gb")
    assert "DS-11105-001" in text and "https://" in text and "TopK takes K up to 3840" in text
    data = json.loads(typed("devices", "orin-nano-8gb", "--json"))
    assert data["checked_against"] == "10.3" and data["figures"]["memory"]["value"] == 8
    whys = [rule["why"] for rule in data["rules"]]
    old = json.loads(typed("devices", "orin-nano-8gb@8.5", "--json"))
    assert not any("IPluginV3" in why for why in whys)
    assert any("IPluginV3" in rule["why"] for rule in old["rules"])


def test_an_unknown_device_lists_the_nearest():
    done = CliRunner().invoke(main, ["devices", "orin-nano"])
    assert done.exit_code == 2 and "Did you mean orin-nano-8gb" in done.output
