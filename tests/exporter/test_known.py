"""Figures that are known already: what is read back is what was measured, of the same key, or it is measured again."""

from __future__ import annotations

import os

import numpy as np
import onnx_ir as ir
import pytest
from tokexport.exporter import cache as user_cache
from tokexport.exporter.evaluate import known
from tokexport.exporter.sources.source import Question

KEY = {"figure": "baselines", "keep": 21}


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache folder, and a process that knows nothing."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(known, "_memory", {})
    return tmp_path / "tokexport" / "figures"


def later(monkeypatch) -> None:
    """As if another process began."""
    monkeypatch.setattr(known, "_memory", {})


def never() -> None:
    pytest.fail("measured again")


def test_a_figure_is_measured_once_and_read_by_the_next_process(cache, monkeypatch):
    value = {"random": {"mean": 0.1 + 0.2}, "pool": None}
    assert known.figure(KEY, lambda: value) == value
    known.figure(KEY, never)["random"] = "changed by who got it"
    assert known.figure(KEY, never) == value
    later(monkeypatch)
    assert known.figure(dict(reversed(KEY.items())), never) == value
    (file,) = cache.iterdir()
    assert len(file.name) == 64 and cache.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("other", [{"keep": 22}, {"figure": "uncompressed"}, {"more": 1}])
def test_another_key_is_measured(cache, monkeypatch, other):
    known.figure(KEY, lambda: 1)
    later(monkeypatch)
    assert known.figure(KEY | other, lambda: 2) == 2


@pytest.mark.parametrize("part", ["_code", "_versions"])
def test_other_code_and_other_versions_are_measured(cache, monkeypatch, part):
    known.figure(KEY, lambda: 1)
    later(monkeypatch)
    monkeypatch.setattr(user_cache, part, lambda: "other")
    assert known.figure(KEY, lambda: 2) == 2


def damaged(text: str) -> list[str]:
    check, value = text.split("\n", 1)
    other = user_cache._check("of another key", value.encode()).decode()
    return ["", text[:-1], check, f"{check}\n{value}5", f"{other}\n{value}", value, "0" * (17 << 20) + text]


@pytest.mark.parametrize("how", range(7))
def test_a_damaged_or_foreign_file_is_measured_again_and_replaced(cache, monkeypatch, how):
    known.figure(KEY, lambda: 1.5)
    (file,) = cache.iterdir()
    whole = file.read_text()
    file.write_text(damaged(whole)[how])
    later(monkeypatch)
    assert known.figure(KEY, lambda: 1.5) == 1.5
    assert file.read_text() == whole
    assert [path.name for path in cache.iterdir()] == [file.name]


def test_what_was_not_used_for_longest_makes_room(cache, monkeypatch):
    monkeypatch.setattr(user_cache, "_MOST", 2)
    files = []
    for age, keep in enumerate((1, 2)):
        known.figure({"keep": keep}, lambda: 1)
        files.append(next(file for file in cache.iterdir() if file not in files))
        os.utime(files[-1], (age, age))
    later(monkeypatch)
    known.figure({"keep": 1}, never)
    known.figure({"keep": 3}, lambda: 1)
    assert files[0].exists() and not files[1].exists() and len(list(cache.iterdir())) == 2


def test_links_are_not_followed(cache, monkeypatch, tmp_path):
    known.figure(KEY, lambda: 1)
    (file,) = cache.iterdir()
    elsewhere = tmp_path / "elsewhere"
    file.rename(elsewhere)
    file.symlink_to(elsewhere)
    later(monkeypatch)
    assert known.figure(KEY, lambda: 2) == 2
    assert not file.is_symlink() and elsewhere.read_text().endswith("\n1")
    # A link in the place of the folder is neither read nor written through.
    cache.rename(tmp_path / "moved")
    cache.symlink_to(tmp_path / "moved")
    before = file.stat().st_mtime_ns
    later(monkeypatch)
    assert known.figure(KEY, lambda: 3) == 3 and file.stat().st_mtime_ns == before


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes")
def test_a_pipe_is_not_waited_for(cache, monkeypatch):
    known.figure(KEY, lambda: 1)
    (file,) = cache.iterdir()
    file.unlink()
    os.mkfifo(file)
    later(monkeypatch)
    assert known.figure(KEY, lambda: 2) == 2


def test_without_a_folder_to_write_figures_are_measured(cache, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert known.figure(KEY, lambda: 1) == 1
    later(monkeypatch)
    assert known.figure(KEY, lambda: 2) == 2


def test_a_graph_is_told_from_one_of_other_weights():
    def graph(weight: float) -> ir.Model:
        value = ir.Value(name="w", const_value=ir.tensor(np.array([weight], np.float32), name="w"))
        x = ir.val("x", ir.DataType.FLOAT, (1,))
        node = ir.node("Add", [x, value])
        return ir.Model(
            ir.Graph([x], node.outputs, nodes=[node], initializers=[value], opset_imports={"": 18}), ir_version=10
        )

    assert known.graph_hash(graph(1)) == known.graph_hash(graph(1)) != known.graph_hash(graph(2))


def test_questions_are_told_apart_by_every_part():
    def of(picture=0, prompt="what ?", answer="this", content=True) -> str:
        return known.questions_hash([Question(np.full(2, picture), prompt, answer, np.array([content]))])

    assert len({of(), of(1), of(prompt="which ?"), of(answer="that"), of(content=False)}) == 5
