"""Building, keeping and finding the plugin library, with a cmake that takes no time."""

from __future__ import annotations

import os
from fnmatch import fnmatch
from pathlib import Path

import onnx
import onnx_ir as ir
import pytest
import tomllib
import toy_cmake
from kernel_build import PLUGINS, ROOT
from tokexport.errors import MissingError, RequestError
from tokexport.graph_passes.compress import compress
from tokexport.plugins import compile as compiling
from tokexport.plugins import library


def plugin_form(method: str, **params: object) -> ir.Model:
    text = '<ir_version: 8, opset_import: ["" : 18]> g (float[1,36,8] x) => (float[1,36,8] t) { t = Relu(x) }'
    model = ir.from_proto(onnx.parser.parse_model(text))
    return compress(model, method, keep=9, seam="tensor:t", params=params, form="plugin")


def test_a_build_is_kept_and_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = toy_cmake.install(tmp_path, monkeypatch)
    (tmp_path / "NvInferRuntime.h").touch()
    assert library.find() is None
    steps: list[str] = []
    made = library.build(architectures="87", include=tmp_path, step=steps.append)
    assert made.read_bytes() == (tmp_path / "toy.so").read_bytes() and made.is_relative_to(tmp_path / "cache")
    assert steps == ["looking for CUDA and TensorRT", "compiling apet.cu"]
    configured, built = calls.read_text().splitlines()
    assert f"-DCMAKE_CUDA_ARCHITECTURES=87 -DTENSORRT_INCLUDE_DIR={tmp_path}" in configured
    assert "--target tokexport_plugins --parallel" in built
    assert library.find() == made
    assert library.build(architectures="87", include=tmp_path) == made
    assert len(calls.read_text().splitlines()) == 3  # looked again, and built nothing
    assert list((tmp_path / "cache").rglob(".build-*")) == []


@pytest.mark.parametrize("content", [None, b"", b"{}", b"[]", b"{"])
@pytest.mark.parametrize("file", ["libtokexport_plugins.so", "build.json"])
def test_a_build_that_is_not_whole_any_more_is_made_again(
    file: str, content: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy_cmake.install(tmp_path, monkeypatch)
    damaged = library.build().parent / file
    damaged.unlink() if content is None else damaged.write_bytes(content)
    assert library.find() is None
    made = library.build()
    assert made.read_bytes() == (tmp_path / "toy.so").read_bytes() and library.find() == made
    assert [one.name for one in made.parent.parent.iterdir()] == [made.parent.name]


@pytest.mark.parametrize("architectures", ["", "foo", "8.7", "87,120", "87;", "sm_87"])
def test_what_is_no_list_of_architectures(architectures: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = toy_cmake.install(tmp_path, monkeypatch)
    with pytest.raises(RequestError, match=f"^'{architectures}' is no list .*--architectures.*Say native, all, or"):
        library.build(architectures=architectures)
    assert not calls.exists()


def test_a_folder_without_headers_or_one_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = toy_cmake.install(tmp_path, monkeypatch)
    with pytest.raises(RequestError, match=f"^there is no NvInferRuntime.h in {tmp_path} .*--include"):
        library.build(include=tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "toy.so"))
    with pytest.raises(MissingError, match=r"no folder to keep the plugin library in: Not a dir.*Set XDG_CACHE_HOME"):
        library.build()
    assert not calls.exists()


def test_other_compilers_headers_and_sources_make_another_build(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy_cmake.install(tmp_path, monkeypatch)
    made = [library.build()]
    for old, new in (("13.0.88", "12.6.20"), ("10.3.0", "10.13.3"), ("87-real", "89-real"), ("12.2.0", "13.1.0")):
        toy_cmake.install(tmp_path, monkeypatch, toy_cmake.CONFIGURE.replace(old, new))
        made.append(library.build())
    assert len(set(made)) == 5
    monkeypatch.setattr(library, "sources", lambda: [PLUGINS / "CMakeLists.txt"])
    assert library.find() is None  # of other sources are all of them
    made.append(library.build())
    assert len(set(made)) == 6 and library.find() == made[-1]


def test_the_last_one_that_was_asked_for_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toy_cmake.install(tmp_path, monkeypatch)
    first = library.build()
    toy_cmake.install(tmp_path, monkeypatch, toy_cmake.CONFIGURE.replace("87-real", "89-real"))
    second = library.build()
    os.utime(first.parent, (1, 1))
    assert library.find() == second != first
    toy_cmake.install(tmp_path, monkeypatch)
    assert library.build() == first == library.find()


def test_without_headers_there_are_kernels_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blind = "\n".join(line for line in toy_cmake.CONFIGURE.splitlines() if "TensorRT" not in line) + "\n"
    calls = toy_cmake.install(tmp_path, monkeypatch, blind)
    with pytest.raises(MissingError, match=r"no TensorRT headers .*nvidia-jetpack.*--include FOLDER"):
        library.build()
    made = library.build(kernels_only=True)
    assert made.name == "libtokexport_kernels.so" and "--target tokexport_kernels " in calls.read_text()
    assert library.find() is None and library.find(kernels_only=True) == made
    toy_cmake.install(tmp_path, monkeypatch)
    plugins = library.build()
    os.utime(plugins.parent, (1, 1))
    assert library.find() == library.find(kernels_only=True) == plugins


@pytest.mark.parametrize(
    ("configure", "build", "message"),
    [
        (
            'printf "CMake Error at a.cmake:3 (message):\\n  There is no\\n  GPU. Say -DCMAKE_CUDA_ARCHITECTURES=87.\\n'
            'Call Stack (most recent call first):\\n  x\\n" >&2; exit 1',
            ":",
            r"^There is no GPU\. Say --architectures 87 \(cmake, configuring",
        ),
        (
            'echo "CMake Error: CMAKE_CXX_COMPILER not set, after EnableLanguage" >&2; exit 1',
            ":",
            r"^CMake finds no C\+\+ compiler or no make .*Run: sudo apt-get install build-essential",
        ),
        (
            'echo "CMake Error at b:" >&2; echo "nvcc fatal   : Unsupported gpu \'compute_33\'" >&2; exit 1',
            ":",
            r"^Unsupported gpu 'compute_33' \(",
        ),
        (
            toy_cmake.CONFIGURE,
            f'echo "Building"; echo "{PLUGINS}/kernels/apet.cu(7): error: expected a ;"; echo "make: *** 2"; exit 2',
            r"does not compile here: /kernels/apet.cu\(7\): error: expected a ; \(cmake --build\)",
        ),
        (toy_cmake.CONFIGURE, "exit 2", "does not compile here: no output"),
    ],
)
def test_what_goes_wrong_is_one_sentence(
    configure: str, build: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy_cmake.install(tmp_path, monkeypatch, f"\n{configure}", f"\n{build}")
    with pytest.raises(MissingError, match=message) as error:
        library.build()
    assert len(str(error.value).splitlines()) == 1
    assert library.find() is None


def test_no_cmake_and_a_build_that_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toy_cmake.install(tmp_path, monkeypatch, build='\necho "Building CXX object a.cpp.o"; exec sleep 60')

    def stop(text: str) -> None:
        if "a.cpp" in text:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        library.build(step=stop)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingError, match=r"no cmake .*apt-get install cmake"):
        library.build()
    assert list((tmp_path / "cache" / "tokexport" / "plugins").iterdir()) == []


def test_the_library_that_the_environment_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toy_cmake.install(tmp_path, monkeypatch)
    library.build()
    monkeypatch.setenv("TOKEXPORT_PLUGINS", str(tmp_path / "toy.so"))
    assert library.find() == tmp_path / "toy.so"
    monkeypatch.setenv("TOKEXPORT_PLUGINS", str(tmp_path / "gone.so"))
    with pytest.raises(MissingError, match=r"TOKEXPORT_PLUGINS names .*gone\.so, which is not there"):
        library.find()


def test_what_a_graph_needs_and_a_library_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toy_cmake.install(tmp_path, monkeypatch)
    apet, centres = plugin_form("apet", basis=3), plugin_form("kcenter_merge")
    assert library.needed(apet) == ["TokexportApet"] and library.needed(plugin_form("uniform")) == []
    text = '<ir_version: 8, opset_import: ["" : 18]> g (float[1,36,8] x) => (float[1,36,8] t) { t = Relu(x) }'
    portable = compress(ir.from_proto(onnx.parser.parse_model(text)), "kcenter_merge", 0.85, seam="tensor:t")
    assert library.needed(portable) == []
    with pytest.raises(MissingError, match=r"no plugin library .*TokexportApet come.*tokexport plugins build"):
        library.require(apet)
    made = library.build()
    assert library.creators(made) == ["TokexportApet", "TokexportTopk"]
    assert library.require(apet) == made
    with pytest.raises(MissingError, match=r"has no TokexportKcenterMerge \(.*Run: tokexport plugins build"):
        library.require(centres)
    monkeypatch.setenv("TOKEXPORT_PLUGINS", str(tmp_path / "toy.so"))
    with pytest.raises(MissingError, match="Unset TOKEXPORT_PLUGINS"):
        library.require(centres)


def test_a_library_for_other_gpus_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toy_cmake.install(tmp_path, monkeypatch)
    made = library.build()
    library.require_code(made, "8.7")
    wrong = r"compiled for 87-real, and this GPU has compute capability 8\.9 .*Run: tokexport plugins build$"
    with pytest.raises(MissingError, match=wrong):
        library.require_code(made, "8.9")


def test_a_wheel_has_every_source() -> None:
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    named = [str(path.relative_to(PLUGINS)) for path in compiling.sources()]
    assert len(named) > 20
    for name in named:
        matches = [one for one in patterns["tokexport.plugins"] if fnmatch(name, one)]
        assert any(one.count("/") == name.count("/") for one in matches), name
