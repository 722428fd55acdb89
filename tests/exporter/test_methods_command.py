"""`tokexport methods NAME`: every parameter with its meaning; the same in JSON and in docs/parameters.md."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from tokexport.exporter.cli import main
from tokexport.graph_passes.compressors import names
from tokexport.graph_passes.method_page import page

ROOT = Path(__file__).parents[2]


def typed(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(main, list(arguments), env={"COLUMNS": "200"})
    assert result.exit_code == code, result.output
    return result.output


def test_a_method_is_shown_with_its_parameters_domain_cost_and_source() -> None:
    said = typed("methods", "apet")
    for words in (
        "overwrite, blend, none",
        "number of basis tokens",
        "K > M unless",
        "arXiv 2602.19870",
        "1,500 nodes",
    ):
        assert words in said


def test_the_same_stands_in_json() -> None:
    data = json.loads(typed("methods", "apet", "--json"))
    slots = next(one for one in data["parameters"] if one["name"] == "basis_slots")
    assert slots["default"] == "overwrite" and slots["values"] == "overwrite, blend, none"
    assert data["domain"].startswith("K tokens") and "lowest-error" in slots["meaning"] and "Gram" in json.dumps(data)


def test_a_parameter_that_a_base_class_defines_has_its_meaning_from_there() -> None:
    (length,) = (one for one in page("speechprune")["parameters"] if one["name"] == "text_length")
    assert "rows of the graph's input" in length["meaning"] and length["values"] == "a whole number"


@pytest.mark.parametrize("name", names())
def test_every_parameter_has_a_meaning_and_values(name: str) -> None:
    found = page(name)
    assert found["domain"].endswith(".") and found["about"]
    for one in found["parameters"]:
        assert len(one["meaning"]) >= 10, one
        assert one["values"] and "<" not in one["values"], one


def test_an_unknown_method_gets_the_nearest() -> None:
    assert "Did you mean apet" in typed("methods", "apett", code=2)


def test_the_listing_fits_on_80_columns_and_names_the_page() -> None:
    said = CliRunner().invoke(main, ["methods"], env={"COLUMNS": "80"}).output
    assert max(map(len, said.splitlines())) <= 80 and "tokexport methods NAME" in said


def test_the_document_says_what_the_command_says() -> None:
    spec = importlib.util.spec_from_file_location("parameters", ROOT / "tools/parameters.py")
    assert spec is not None and spec.loader is not None
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    assert tool.PAGE.read_text(encoding="utf-8") == tool.text(), "run python tools/parameters.py"
