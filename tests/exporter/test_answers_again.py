"""`tokexport verify` on a recogniser: what the model's own code said is in the proof, and is compared again."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from pathlib import Path

import pytest
import tiny_checkpoints
from click.testing import CliRunner

pytest.importorskip("transformers")
pytest.importorskip("onnxruntime")

from tokexport.exporter.cli import main
from tokexport.exporter.proof import probes

IDS = tiny_checkpoints.whisper_ids()


@pytest.fixture(scope="module")
def whole(tiny_whisper_folder, tmp_path_factory):
    """A bundle, and what the command that made it printed."""
    out = tmp_path_factory.mktemp("whole") / "w"
    ask = ["model", str(tiny_whisper_folder), "--method", "kcenter_merge", "--keep", "40", "-o", str(out), "--json"]
    result = CliRunner().invoke(main, ask)
    assert result.exit_code == 0, result.output
    return out, json.loads(result.stdout)


def verified(bundle: Path, code: int = 0) -> dict:
    result = CliRunner().invoke(main, ["verify", str(bundle), "--json"])
    assert result.exit_code == code, result.output
    return json.loads(result.stdout)


def with_answers(bundle: Path, target: Path, change) -> Path:
    """A copy whose proof has each probe as `change` returns it, without those for which it returns None."""
    shutil.copytree(bundle, target)
    kept = [one for one in map(change, probes.load(target / probes.FILE)) if one is not None]
    content = probes.to_bytes(kept)
    (target / probes.FILE).write_bytes(content)
    manifest = json.loads((target / "manifest.json").read_text())
    manifest["files"][probes.FILE] = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (target / "manifest.json").write_text(json.dumps(manifest))
    return target


def test_verify_compares_the_answers_again_without_the_models_own_code(whole, monkeypatch):
    out, data = whole
    for name in ("transformers", "tokexport.exporter.families.recogniser_reference"):
        monkeypatch.setitem(sys.modules, name, None)
    (again,) = [check for check in verified(out)["checks"] if check["part"] == "generation"]
    (exported,) = [check for check in data["proof"]["checks"] if check["part"] == "generation"]
    assert again == exported


def test_another_answer_in_the_proof_is_a_failure_and_a_damaged_one_is_refused(whole, tmp_path):
    def other(probe):
        if probe.part == probes.ANSWERS:
            ids, near = (probe.expected[name].copy() for name in ("ids", "near"))
            # Whichever token it is, the graphs' own one is not among the likeliest.
            ids[1], near[1] = len(IDS) - 1, len(IDS) - 1
            probe.expected |= {"ids": ids, "near": near}
        return probe

    found = verified(with_answers(whole[0], tmp_path / "other", other), code=1)
    (check,) = [one for one in found["checks"] if one["part"] == "generation"]
    assert not check["ok"] and check["max_abs"] == 3 and f"and not {len(IDS) - 1}" in check["detail"]

    def outside(probe):
        if probe.part == probes.ANSWERS:
            probe.expected["near"] = probe.expected["near"] + len(IDS)
        return probe

    found = verified(with_answers(whole[0], tmp_path / "outside", outside), code=2)
    assert "answers are not those of this model" in str(found["error"])


def test_a_proof_without_answers_says_that_they_were_not_compared_again(whole, tmp_path):
    bare = with_answers(whole[0], tmp_path / "bare", lambda probe: None if probe.part == probes.ANSWERS else probe)
    found = verified(bare)
    assert any("generation" in note and "not again" in note for note in found["notes"])
    assert "generation" not in {check["part"] for check in found["checks"]}


def test_answers_do_not_stand_for_the_proof_of_a_graph(whole, tmp_path):
    bare = with_answers(whole[0], tmp_path / "bare", lambda probe: None if probe.part == "decode" else probe)
    assert "holds nothing that proves decode" in str(verified(bare, code=2)["error"])
