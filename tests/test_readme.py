"""The README's commands, as they stand there."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
BLOCKS = re.findall(r"```console\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
BIN = Path(sys.executable).parent


def run(command: str, folder: Path) -> str:
    environment = {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "VENV": sys.prefix}
    done = subprocess.run(command, shell=True, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"$ {command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_the_first_two_commands_are_all_the_set_up():
    assert BLOCKS[0].split("\n")[:2] == ["make demo", "make test"]


def test_make_demo_ends_in_a_right_answer_and_says_where_the_bundle_is():
    printed = run(BLOCKS[0].split("\n")[0], ROOT)
    assert "the answer is right" in printed
    bundle = Path(re.findall(r"^bundle: (.+)$", printed, re.MULTILINE)[-1])
    assert (bundle / "manifest.json").is_file()


def test_make_test_is_what_ci_calls_and_runs_every_test():
    command = BLOCKS[0].split("\n")[1]
    assert re.search(rf"^{command}$", (ROOT / ".ci/run").read_text(), re.MULTILINE)
    planned = run(command.replace("make", "make -n"), ROOT)
    assert re.search(r"cd tests && \S+ -m pytest .*not slow", planned)
    assert "mypy" in planned and "ruff check" in planned


@pytest.mark.parametrize("block", BLOCKS[1:], ids=lambda block: block.split("\n")[0])
def test_every_other_block_runs_in_an_empty_folder(block, tmp_path):
    if "espeak-ng" in block and shutil.which("espeak-ng") is None and "CI" not in os.environ:
        pytest.skip("the README's spoken sentence: there is no espeak-ng")
    for command in filter(None, block.splitlines()):
        if shlex.split(command)[0] in ("tokexport", "espeak-ng"):
            run(command, tmp_path)
        else:
            assert (ROOT / shlex.split(command)[-1]).is_file() or command.startswith("make "), command


def test_the_tables_are_those_of_the_results():
    sys.path.insert(0, str(ROOT / "benchmarks"))
    import tables

    text = (ROOT / "README.md").read_text()
    assert text.count("<!-- end -->") == len(tables.TABLES)
    assert tables.fill(text) == text, "run python benchmarks/tables.py"
    assert "@" not in re.sub(r"`[^`]*`|github.com\S*", "", text)


def test_every_method_at_real_size_is_proved_built_and_within_the_limits_or_says_why():
    sys.path.insert(0, str(ROOT / "benchmarks"))
    import bench_methods
    import tables
    from tokexport.graph_passes.compressors import methods

    page = (ROOT / "docs/methods.md").read_text()
    assert tables.fill(page, bench_methods.at_real_size) == page, "run python benchmarks/bench_methods.py --tables"
    heavy = {method.name: method.heavy for method in methods()}
    for row in tables.results("methods_real_size"):
        assert all(proof["ok"] for proof in row["proof"].values()), row
        assert not any(row[form]["errors"] for form in bench_methods.FORMS if form in row), row
        assert heavy[row["method"]] or not bench_methods.over(row), row
