"""The steps of CONTRIBUTING.md that add a method, done as they are written in a copy of the repository."""

import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from tree import ROOT, copied

BLOCK = re.compile(r"^ *```(\w+)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)


def steps():
    """(what stands in front, language, text) of each block of the section."""
    section = (ROOT / "CONTRIBUTING.md").read_text().partition("## Add a method\n")[2].partition("\n## ")[0]
    blocks = list(BLOCK.finditer(section))
    ends = [0, *(block.end() for block in blocks)]
    return [(section[end : block.start()], block[1], textwrap.dedent(block[2])) for end, block in zip(ends, blocks)]


def test_the_steps_that_add_a_method_work_as_written(tmp_path):
    pytest.importorskip("torch")
    package = copied(tmp_path / "tokexport")
    # The mutants copy what git lists.
    subprocess.run(["git", "init", "-q"], cwd=package, check=True)
    kinds = []
    for before, kind, text in steps():
        kinds.append(kind)
        if kind == "sh":
            commands = text
            continue
        path = package / re.findall(r"`([\w/.]+)`:", before)[-1]
        assert path.parent.is_dir() and path.exists() == (kind == "toml"), path
        path.write_text((path.read_text() + "\n" if kind == "toml" else "") + text)
    assert kinds == ["python", "python", "toml", "sh"]

    paths = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": paths, "PYTHONPATH": str(tmp_path)}
    environment.pop("PYTEST_XDIST_WORKER", None)
    done = subprocess.run(["sh", "-ec", commands], cwd=package, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "killed  latest-keeps-the-first" in done.stdout
    assert re.search(r"^latest +keeps the last K tokens$", done.stdout, re.MULTILINE)
    # Its own test, and the property tests that took it up by themselves.
    assert int(re.search(r"(\d+) passed, \d+ deselected", done.stdout)[1]) == 1 + 8

    # The files are as the linter wants them.
    made = ["graph_passes/compressors/latest.py", "tests/graph_passes/compressors/test_latest.py"]
    if shutil.which("ruff", path=paths):
        for check in (["check"], ["format", "--check"]):
            done = subprocess.run(["ruff", *check, *made], cwd=package, env=environment, capture_output=True, text=True)
            assert done.returncode == 0, done.stdout
