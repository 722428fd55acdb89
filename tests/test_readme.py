"""The commands and tables of the README and of docs/, as they stand there."""

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
PAGES = {path.relative_to(ROOT).as_posix(): path.read_text() for path in (ROOT / "README.md", *ROOT.glob("docs/*.md"))}
# Whose commands are run by tests of their own.
ELSEWHERE = {"docs/ci.md": "examples/test_ci_recipes.py"}
BLOCKS = re.findall(r"```console\n(.*?)```", PAGES["README.md"], re.DOTALL)
# The README's first is not run in an empty folder.
OTHERS = [
    (page, block)
    for page, text in sorted(PAGES.items())
    for number, block in enumerate(re.findall(r"```console\n(.*?)```", text, re.DOTALL))
    if page not in ELSEWHERE and (page, number) != ("README.md", 0)
]
BIN = Path(sys.executable).parent


def run(command: str, folder: Path) -> str:
    environment = {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "VENV": sys.prefix}
    done = subprocess.run(command, shell=True, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"$ {command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


class Reader:
    """Types the commands of each page into a folder that was empty when the page began.

    A command that exports makes the same bundle on every page: it is run once, and its result copied.
    """

    def __init__(self, root: Path) -> None:
        self.root, self.made = root, dict[str, list[Path]]()

    def type(self, page: str, command: str) -> None:
        folder = self.root / page.replace("/", "-")
        folder.mkdir(exist_ok=True)
        if command in self.made:
            for path in self.made[command]:
                shutil.copytree(path, folder / path.name)
            return
        before = set(folder.iterdir())
        run(command, folder)
        if command.startswith("tokexport model "):
            self.made[command] = sorted(set(folder.iterdir()) - before)


@pytest.fixture(scope="module")
def reader(tmp_path_factory) -> Reader:
    return Reader(tmp_path_factory.mktemp("reader"))


def test_a_newcomer_reads_to_the_end():
    assert len(PAGES["README.md"].splitlines()) < 150


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
    assert re.search(r"-m sphinx -W -n .*docs ", planned)


@pytest.mark.parametrize(("page", "block"), OTHERS, ids=lambda text: text.split("\n")[0])
def test_every_other_block_runs_in_a_folder_that_was_empty_when_its_page_began(page, block, reader):
    if "espeak-ng" in block and shutil.which("espeak-ng") is None and "CI" not in os.environ:
        pytest.skip("the README's spoken sentence: there is no espeak-ng")
    for command in filter(None, block.splitlines()):
        if shlex.split(command)[0] in ("tokexport", "espeak-ng") or command.startswith("python -m tokexport."):
            reader.type(page, command)
        else:
            assert (ROOT / shlex.split(command)[-1]).is_file() or command.startswith("make "), command


def test_the_tables_are_those_of_the_results():
    sys.path.insert(0, str(ROOT / "benchmarks"))
    import bench_methods
    import tables

    assert PAGES.keys() >= tables.PAGES.keys()
    for page, text in PAGES.items():
        made = tables.PAGES.get(page, ())
        made += (bench_methods.at_real_size,) if page == "docs/methods.md" else ()
        assert text.count("<!-- end -->") == len(made), page
        assert tables.fill(text, *made) == text, "run python benchmarks/tables.py"
        assert "@" not in re.sub(r"`[^`]*`|github.com\S*", "", text), page


def test_every_method_at_real_size_is_proved_built_and_within_the_limits_or_says_why():
    sys.path.insert(0, str(ROOT / "benchmarks"))
    import bench_methods
    import tables
    from tokexport.graph_passes.compressors import methods

    page = PAGES["docs/methods.md"]
    assert tables.fill(page, bench_methods.at_real_size) == page, "run python benchmarks/bench_methods.py --tables"
    heavy = {method.name: method.heavy for method in methods()}
    for row in tables.results("methods_real_size"):
        assert all(proof["ok"] for proof in row["proof"].values()), row
        assert not any(row[form]["errors"] for form in bench_methods.FORMS if form in row), row
        assert heavy[row["method"]] or not bench_methods.over(row), row
