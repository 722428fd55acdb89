"""Break the code on purpose, one line at a time, and see the tests go red.

Each mutant of mutants.toml is applied to a copy of the tree; the tests it names must then fail. A mutant that no test
notices, or whose old text no longer stands in its file, is an error.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

import click

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tree import copied


def run_tests(package: Path, tests: list[str]) -> subprocess.CompletedProcess[str]:
    """Run the named tests of the copy at `package`, a folder called tokexport."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests]
    environment = {**os.environ, "PYTHONPATH": str(package.parent), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(command, cwd=package / "tests", env=environment, capture_output=True, text=True)


def try_mutant(mutant: dict[str, Any]) -> str:
    """Return an empty string when the tests kill the mutant, else what went wrong."""
    with tempfile.TemporaryDirectory() as scratch:
        package = copied(Path(scratch) / "tokexport")
        path = package / mutant["file"]
        text = path.read_text()
        if text.count(mutant["old"]) != 1:
            return f"its old text stands {text.count(mutant['old'])} times in {mutant['file']}, not once"
        path.write_text(text.replace(mutant["old"], mutant["new"]))
        done = run_tests(package, mutant["tests"])
        if done.returncode == 0:
            return f"SURVIVED {' '.join(mutant['tests'])}"
        # Exit 1 is a failed test; 2 an import error of the mutant, 4 a wrong test name, 5 no test at all.
        return "" if done.returncode == 1 else f"pytest exit {done.returncode}: {done.stdout[-300:]}"


@click.command()
@click.argument("names", nargs=-1)
def main(names: tuple[str, ...]) -> None:
    """Apply the mutants of these NAMES, or all of them, and exit with 1 if one survives."""
    mutants = tomllib.loads((Path(__file__).parent / "mutants.toml").read_text())["mutant"]
    unknown = sorted({*names} - {mutant["name"] for mutant in mutants})
    if unknown:
        raise click.UsageError(f"mutants.toml has no {', '.join(unknown)}.")
    mutants = [mutant for mutant in mutants if not names or mutant["name"] in names]
    with tempfile.TemporaryDirectory() as scratch:
        tests = sorted({test for mutant in mutants for test in mutant["tests"]})
        healthy = run_tests(copied(Path(scratch) / "tokexport"), tests)
        if healthy.returncode:
            raise click.ClickException(f"{healthy.stdout[-3000:]}\nthe tests fail without any mutant: nothing to learn")
    failures = 0
    with ThreadPoolExecutor(max_workers=2) as pool:
        for mutant, problem in zip(mutants, pool.map(try_mutant, mutants)):
            failures += bool(problem)
            click.echo(f"{'killed' if not problem else 'PROBLEM'}  {mutant['name']}  {problem}")
    click.echo(f"{len(mutants) - failures} passed, {failures} failed")
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
