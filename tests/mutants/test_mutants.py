"""Every mutant still changes the line it was written for."""

from pathlib import Path

import tomllib

ROOT = Path(__file__).resolve().parents[2]


def test_the_text_that_a_mutant_replaces_stands_in_its_file_once():
    mutants = tomllib.loads((ROOT / "tests/mutants/mutants.toml").read_text())["mutant"]
    lost = [each["name"] for each in mutants if (ROOT / each["file"]).read_text().count(each["old"]) != 1]
    assert not lost, "write these anew"
