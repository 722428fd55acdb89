"""Recognisers whose frames carry the alignment are refused with what was measured, before a weight is read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from tokexport.exporter.cli import main
from tokexport.exporter.families import FAMILIES, REFUSED


@pytest.mark.parametrize("architecture", ["Wav2Vec2ForCTC", "ParakeetForCTC", "HubertForCTC"])
def test_a_recogniser_by_ctc_is_refused_with_the_reason(architecture: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"architectures": [architecture]}))
    refused = CliRunner().invoke(main, ["inspect", str(tmp_path)])
    assert refused.exit_code == 2
    said = " ".join(refused.stderr.split())
    assert f"{architecture} writes a letter or none for every frame" in said
    assert "uniform choice" in said and "logits[assignment]" in said and "no family" not in said


def test_no_family_reads_what_is_refused() -> None:
    assert not [name for known in FAMILIES.values() for name in known if name.endswith(tuple(REFUSED))]
