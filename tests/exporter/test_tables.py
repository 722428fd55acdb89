"""Tables on 80 columns: what is there to be copied stands in one piece, and --wide shows every column."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from click.testing import CliRunner
from tokexport.exporter import render
from tokexport.exporter.cli import main
from tokexport.exporter.tables import Table, proof_table, show
from tokexport.files import size

LONG = "encoder.vision_model.layers.0.self_attn.out_proj"


@pytest.fixture(autouse=True)
def eighty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


def test_bytes_and_times_have_up_to_three_digits():
    assert [size(count) for count in (0, 999, 1000, 999_499, 999_500, 2_000_000_000)] == [
        *("0 B", "999 B", "1 kB", "999 kB", "1 MB", "2 GB")
    ]
    assert [render.milliseconds(number) for number in (0.5, 999, 999.7, 1234)] == ["0.5 ms", "999 ms", "1 s", "1.23 s"]


def typed(*arguments: str) -> str:
    result = CliRunner().invoke(main, list(arguments))
    assert result.exit_code == 0, result.output
    return result.output


def tower(folder: Path) -> Path:
    """Four layers of residual sums over [1, 16, 8]: a graph with seams, one of them encoder_layer:3."""
    layers = " ".join(
        f"n{i} = LayerNormalization<axis=-1>(h{i}, w) a{i} = Softmax(n{i}) h{i + 1} = Add(h{i}, a{i})" for i in range(4)
    )
    text = f"""<ir_version: 8, opset_import: ["" : 20]> toy (float[1,16,8] h0) => (float[1,16,8] h4)
        <float[8] w = {{1, 1, 1, 1, 1, 1, 1, 1}}> {{ {layers} }}"""
    onnx.save(onnx.parser.parse_model(text), folder / "tower.onnx")
    return folder / "tower.onnx"


def test_a_key_is_never_folded_and_other_cells_are(capsys: pytest.CaptureFixture[str]) -> None:
    rows = Table("seam", "why", "tensor", keys={"tensor"})
    rows.add_row("encoder_layer:0", "it mixes tokens " * 9, LONG)
    show(rows)
    lines = capsys.readouterr().out.splitlines()
    assert any("encoder_layer:0" in line and LONG in line for line in lines)
    assert sum("it mixes" in line or "tokens" in line for line in lines) > 1


def test_a_long_word_is_folded_where_it_is_no_key(capsys: pytest.CaptureFixture[str]) -> None:
    rows = Table("seam", "why")
    rows.add_row("encoder_layer:0", "TokexportKcenterMerge" * 6)
    show(rows)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80 and any("encoder_layer:0" in line for line in lines)


def test_columns_without_content_and_those_for_wide_are_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    rows = Table("name", "note", "more", more={"more"})
    rows.add_row("one", "", "much")
    show(rows)
    said = capsys.readouterr().out
    assert "note" not in said and "much" not in said and "more columns with --wide: more" in said


def test_the_proof_fits_on_80_columns(capsys: pytest.CaptureFixture[str]) -> None:
    check = {"part": "compressor", "tensor": "kept_indices", "cosine": 1.0, "norm_ratio": 1.0, "max_abs": 0.0}
    proof_table([{**check, "flipped": 0, "ok": True, "detail": ""}])
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 80


def test_inspect_shows_each_seam_in_one_piece(tmp_path: Path) -> None:
    said = typed("inspect", str(tower(tmp_path)))
    assert any(line.split()[:2] == ["encoder_output", "16"] for line in said.splitlines())
    assert max(map(len, said.splitlines())) <= 80
    assert "structure" not in said and "structure" in typed("inspect", str(tower(tmp_path)), "--wide")


def test_the_list_of_devices_fits_and_wide_folds_nothing() -> None:
    assert max(map(len, typed("devices").splitlines())) <= 80
    assert "NVIDIA Jetson AGX Orin 64 GB" in typed("devices", "--wide") and "JetPack 7.2: 10.16" in typed(
        "devices", "--wide"
    )


def test_no_colour_where_none_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert "\x1b[" in typed("devices")
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[" not in typed("devices") and "\x1b[" not in CliRunner().invoke(main, ["doctor"], color=True).output
