"""What a new user reads: cures that can be typed, and output that fits 80 columns."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from tokexport.errors import RequestError
from tokexport.exporter import pipeline, tables
from tokexport.exporter.cli import main
from tokexport.exporter.commands.doctor import examined
from tokexport.exporter.commands.inspect import inspected
from tokexport.exporter.commands.verify import verified
from tokexport.exporter.result import Exported
from tokexport.graph_passes.compressors import make, names
from tokexport.runtimes.media.audio import read_sound
from tokexport.runtimes.media.image import _read as read_image


def typed(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments), env={"COLUMNS": "80"})


def test_help_fits_80_columns() -> None:
    assert max(len(line) for line in typed("--help").output.splitlines()) <= 80


@pytest.mark.parametrize("command", ["run", "show", "verify", "inspect", "doctor"])
def test_help_names_no_option_that_the_command_lacks(command: str) -> None:
    assert "--force" not in typed(command, "--help").output


def test_verify_folds_its_notes(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    one = {"variant": "v", "checks": [], "notes": ["word " * 40], "accuracy": None}
    verified({**one, "bundle": "b", "files": 1, "min_accuracy": None, "failed": "", "further": []})
    assert max(len(line) for line in capsys.readouterr().out.splitlines()) <= 80


def test_inspect_says_beneath_the_table_why_seams_are_closed(capsys: pytest.CaptureFixture[str]) -> None:
    seam = {"tokens": 4, "valid": False, "why": "they are not tokens"}
    inspected({"nodes": 3, "notes": [], "seams": [{"seam": "a", **seam}, {"seam": "b", **seam}]})
    out = capsys.readouterr().out
    assert out.splitlines()[-1] == "note: no compressor can go to a, b: they are not tokens"
    assert "notes:" not in out and out.count("they are not tokens") == 1
    moved = {"tokens": 4, "valid": False, "why": "Reshape 'r' downstream moves or merges tokens by position"}
    inspected({"seams": [{"seam": f"encoder_layer:{i}", **moved} for i in range(3)]})
    said = " ".join(capsys.readouterr().out.split())
    assert said.endswith("by position; with --rebuild one can go to encoder_layer:0, encoder_layer:1")


@pytest.mark.parametrize("read", [read_image, lambda path: read_sound(path, 16000)])
def test_a_file_of_another_kind_is_named_without_objects_of_python(read, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"neither a picture nor a sound")
    with pytest.raises(RequestError) as caught:
        read(tmp_path / "x")
    assert "cannot be read as" in str(caught.value) and "<_io" not in str(caught.value)


def test_a_checkpoint_where_a_bundle_belongs_is_answered_with_the_command_that_makes_one(tmp_path: Path) -> None:
    folder = tmp_path / "my model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    assert f"tokexport model '{folder}' --method" in typed("verify", str(folder)).stderr


def test_a_wrong_value_names_the_page_of_its_method() -> None:
    with pytest.raises(RequestError, match="`tokexport methods tome`"):
        make("tome", {"metric": "bar"})
    assert "metric" in json.loads(typed("methods", "tome", "--json").stdout)["params"]


def test_the_command_that_measures_usefulness_names_the_source(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "export", lambda **request: Exported(Path("b"), "toy", "fp32", []))
    out = " ".join(typed("model", "my model", "--method", "tome", "--ratio", "0.5").stdout.split())
    assert "`tokexport sweep 'my model' --inputs FOLDER`" in out


def fits(text: str) -> bool:
    return max(map(len, text.splitlines())) <= 80


@pytest.mark.parametrize("name", sorted(names()))
def test_the_page_of_every_method_fits_80_columns(name: str) -> None:
    assert fits(typed("methods", name).stdout)


def test_so_do_recipes_and_what_doctor_finds(capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert fits(typed("methods", "--recipes").stdout)
    one = {"status": "warning", "name": "a thing", "what": "a word " * 20, "fix": "Do this. " * 20}
    examined({"families": {"all": [one, {**one, "fix": 'pip install "a package"'}]}})
    out = capsys.readouterr().out
    assert fits(out) and '-> pip install "a package"' in out


def test_no_line_of_a_table_ends_in_blanks(capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    rows = tables.Table("a", "b")
    rows.add_row("a", "")
    rows.add_row("a", "long " * 8)
    tables.show(rows)
    assert not [line for line in capsys.readouterr().out.splitlines() if line.endswith(" ")]
