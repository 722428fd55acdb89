"""What other packages add by entry points, and what is left out: by the real command line, on packages made here."""

import json
import os
import subprocess
import sys
from pathlib import Path

import onnx
import pytest

TOKEXPORT = Path(sys.executable).with_name("tokexport")
METHOD = """
from dataclasses import dataclass
from tokexport.graph_passes.compressors import compressor

@compressor({name!r}, family="baseline", modalities=("image",), merges=False, source="test", summary="of {package}")
@dataclass(frozen=True)
class Theirs:
    def signals(self): return ()
    def check(self, case): pass
    def reference(self, case, tokens): pass
    def onnx(self, b, case, tokens): pass
"""
RECIPE = 'summary = "theirs"\n[[steps]]\nmethod = "uniform"\nratio = "1/2"\n'
COMPRESSORS = "[tokexport.compressors]\n"


@pytest.fixture
def site(tmp_path):
    return Site(tmp_path)


class Site:
    """A folder of installed packages."""

    def __init__(self, folder: Path):
        self.folder = folder

    def install(self, name: str, entries: str, **files: str) -> None:
        """A package of one folder: `entries` is its entry_points.txt, and `files` are its modules."""
        info = self.folder / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(entries)
        (self.folder / name).mkdir()
        for module, text in {"__init__": "", **files}.items():
            path = self.folder / name / module.replace("_toml", ".toml")
            (path if path.suffix else path.with_suffix(".py")).write_text(text)

    def run(self, *arguments: str, program: Path | str = TOKEXPORT) -> subprocess.CompletedProcess[str]:
        paths = [str(self.folder), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
        return subprocess.run([program, *arguments], capture_output=True, text=True, env=environment)

    def listed(self, *arguments: str) -> tuple[dict[str, dict], str]:
        """Name -> row of a listing as JSON, and what stands on stderr."""
        done = self.run(*arguments, "--json")
        assert done.returncode == 0, done.stderr
        return {row["name"]: row for row in json.loads(done.stdout)}, done.stderr


def test_a_package_adds_a_method(site):
    site.install(
        "good", COMPRESSORS + "halves = good.halves:Theirs\n", halves=METHOD.format(name="halves", package="good")
    )
    rows, said = site.listed("methods")
    assert rows["halves"]["summary"] == "of good" and "apet" in rows and said == ""
    assert "halves" in site.run("methods").stdout


@pytest.mark.parametrize(
    ("entry", "module", "why"),
    [
        ("halves = bad.halves:Theirs", "import not_there", "ModuleNotFoundError: No module named 'not_there'"),
        ("halves = bad.halves:Theirs", "def (", "SyntaxError: "),
        ("halves = bad.halves:Theirs", "raise SystemExit(3)", "SystemExit: 3"),
        ("halves = bad.halves:Others", "", "AttributeError: "),
        ("halves = bad.nothing:Theirs", "", "ModuleNotFoundError: No module named 'bad.nothing'"),
        ("halves = bad.halves:Theirs", "Theirs = 7", "TypeError: 7 is no class with the decorator @compressor"),
        ("halves = bad.halves", "", "is no class with the decorator @compressor"),
        ("quarters = bad.halves:Theirs", METHOD, "the entry is called 'quarters', and the method 'halves'"),
        ("halves = bad.halves:Theirs", METHOD.replace("def onnx", "def other"), "Theirs lacks one of the methods"),
        ("halves = bad.halves:Theirs", METHOD.replace('"test"', "None"), "source=None on the card of method 'halves'"),
        ("halves = bad.halves:Theirs", METHOD + "    where: object = object()", "object is not JSON serializable"),
        ("apet = bad.halves:Theirs", METHOD, "the name 'apet' is built in"),
        ("halves = bad.halves:Theirs", METHOD.replace("{name!r}", "'apet'"), "takes the name 'apet'"),
        ("halves", "", "its entry_points.txt cannot be read"),
    ],
)
def test_a_package_with_a_wrong_entry_is_named_and_left_out(site, entry, module, why):
    site.install("bad", COMPRESSORS + entry + "\n", halves=module.replace("{name!r}", "'halves'"))
    site.install(
        "good", COMPRESSORS + "thirds = good.thirds:Theirs\n", thirds=METHOD.format(name="thirds", package="good")
    )
    rows, said = site.listed("methods")
    assert {"apet", "thirds"} <= {*rows} and not {"halves", "quarters"} & {*rows}
    assert rows["apet"]["source"].startswith("ApET")
    (note,) = said.splitlines()
    assert note.startswith("note: ") and "package bad 1.0 adds" in note and "is left out" in note and why in note


def test_of_two_packages_with_one_name_neither_is_taken(site):
    for name in ("one", "two"):
        site.install(name, COMPRESSORS + f"halves = {name}.m:Theirs\n", m=METHOD.format(name="halves", package=name))
    rows, said = site.listed("methods")
    assert "halves" not in rows and "apet" in rows
    assert "package one 1.0" in said and "'halves' is also added by two 1.0: uninstall all but one" in said
    assert "package two 1.0" in said and "'halves' is also added by one 1.0: uninstall all but one" in said


def test_a_package_that_prints_when_imported_does_not_get_into_the_json(site):
    module = "print('hello')\n" + METHOD.format(name="halves", package="good")
    site.install("good", COMPRESSORS + "halves = good.halves:Theirs\n", halves=module)
    rows, said = site.listed("methods")
    assert "halves" in rows and said == "hello\n"


def test_a_method_that_is_left_out_is_named_where_it_is_asked_for(site):
    site.install("bad", COMPRESSORS + "halves = bad.halves:Theirs\n", halves="import not_there")
    code = "from tokexport.graph_passes.compressors import make; make('halves')"
    done = site.run("-c", code, program=sys.executable)
    assert "unknown method 'halves'. 'halves', which package bad 1.0 adds" in done.stderr and "not_there" in done.stderr


def test_packages_add_recipes_and_devices_by_their_files(site):
    device = (Path(__file__).parents[2] / "devices/orin-nano-8gb.toml").read_text()
    entries = "[tokexport.recipes]\ntheirs = good\nnone = good\nvscan = good\n\n"
    entries += "[tokexport.devices]\ntheir-board = good\nbad = good\n"
    files = {"theirs_toml": RECIPE, "their-board_toml": device, "bad_toml": device.replace('source = "', 'source = "x')}
    site.install("good", entries, **files)
    rows, said = site.listed("methods", "--recipes")
    assert rows["theirs"]["summary"] == "theirs" and rows["vscan"]["summary"] != "theirs" and "none" not in rows
    assert [line.partition(",")[0] for line in said.splitlines()] == ["note: 'vscan'", "note: 'none'"][::-1]
    assert "none.toml is missing" in said and "the name 'vscan' is built in" in said
    rows, said = site.listed("devices")
    assert "their-board" in rows and "bad" not in rows and "'bad', which package good 1.0 adds" in said
    assert json.loads(site.run("devices", "their-board", "--json").stdout)["name"] == "their-board"


def test_a_package_adds_a_family_but_takes_no_architecture(site):
    module = "ARCHITECTURES = ({0},)\ndef open_family(checkpoint):\n    raise SystemExit('opened by them')\n"
    entries = "[tokexport.families]\ntheirs = good.theirs\ntaker = good.taker\nnothing = good.nothing\n"
    site.install(
        "good",
        entries,
        theirs=module.format("'TheirModel'"),
        taker=module.format("'WhisperModel'"),
        nothing="open_family = print",
    )
    code = (
        "from tokexport.exporter import families as f; print(sorted(f.added().found), f.known_architectures()[-1]);"
        "print(f.family_of('', ['TheirModel']).__module__, f.family_of('', ['Other']));"
        "print(*f.added().skipped, sep='\\n')"
    )
    done = site.run("-c", code, program=sys.executable)
    found, opened, *left_out = done.stdout.splitlines()
    assert found == "['theirs'] TheirModel" and opened == "good.theirs None"
    assert (
        "'nothing', which package good 1.0 adds to tokexport.families" in left_out[0] and "ARCHITECTURES" in left_out[0]
    )
    assert "'taker'" in left_out[1] and "'WhisperModel' is built in" in left_out[1]


def test_the_class_of_an_entry_that_is_left_out_is_no_method_later_either(site):
    site.install("bad", COMPRESSORS + "quarters = bad.m:Theirs\n", m=METHOD.format(name="halves", package="bad"))
    code = "from tokexport.graph_passes.compressors import names; names(); print('halves' in names())"
    assert site.run("-c", code, program=sys.executable).stdout == "False\n"


@pytest.mark.parametrize(
    ("part", "fails", "why"),
    [
        ("def onnx(self, b, case, tokens): pass", "def onnx(self, b, case, tokens): return 1 / 0", "ZeroDivisionError"),
        ("def onnx(self, b, case, tokens): pass", "def onnx(self, b, case, tokens): return 7", "AttributeError: 'int'"),
        ("def check(self, case): pass", "def check(self, case): raise KeyError('grid')", "KeyError: 'grid'"),
    ],
)
def test_an_error_in_a_method_is_blamed_on_its_package(site, part, fails, why):
    module = METHOD.format(name="halves", package="bad")
    assert part in module
    site.install("bad", COMPRESSORS + "halves = bad.halves:Theirs\n", halves=module.replace(part, fails))
    text = '<ir_version: 8, opset_import: ["" : 18]> g (float[1,36,8] x) => (float[1,36,8] t) { t = Relu(x) }'
    onnx.save(onnx.parser.parse_model(text), site.folder / "m.onnx")
    asked = ("model", str(site.folder / "m.onnx"), "--method", "halves", "--keep", "4", "--seam", "tensor:t")
    done = site.run(*asked, "--no-verify", "-q", "-o", str(site.folder / "out"))
    assert done.returncode == 2, done.stderr
    part_name = part.split()[1].partition("(")[0]
    assert f"method 'halves' of package bad 1.0 failed in its {part_name}(): {why}" in done.stderr
    assert ("bug in tokexport" not in done.stderr and "halves.py, line" in done.stderr) or why.startswith("Attr")


def test_what_is_ours_is_no_fault_of_a_package():
    from tokexport.graph_passes.blame import blamed
    from tokexport.graph_passes.compressors import make

    with pytest.raises(ZeroDivisionError), blamed(make("uniform"), "onnx"):
        1 / 0  # noqa: B018
