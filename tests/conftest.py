"""Models shared by the tests, made once a session; nothing heavy is imported before a test asks for it."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny_checkpoints
import wanting

# As the command line does it; and where processes share the cores, each has one.
gc.set_threshold(100_000, 20, 100)
# What Python compiled is kept for the many processes that the tests start.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# Those that take longest go first, so that at the end no process waits for another.
LONGEST = (
    "test_readme.py",
    "cpp/test_cpp_runtime.py",
    "exporter/test_model_command.py",
    "plugins/test_kernel_builds.py",
    "runtimes/test_rtx_encoders.py",
    "exporter/test_sweep_command.py",
    "examples/test_ci_recipes.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def rank(item: pytest.Item) -> int:
        file = item.path.relative_to(Path(__file__).parent).as_posix()
        return LONGEST.index(file) if file in LONGEST else len(LONGEST)

    items.sort(key=rank)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    skipped = [report.longrepr for report in terminalreporter.stats.get("skipped", [])]
    said = wanting.lines(reason[2].removeprefix("Skipped: ") for reason in skipped if isinstance(reason, tuple))
    if said:
        terminalreporter.section("skipped for want of")
        for line in said:
            terminalreporter.write_line(line)


@pytest.fixture(scope="session", autouse=True)
def own_state_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test writes into the state folder of who runs it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield


@pytest.fixture(scope="session", autouse=True)
def own_cache_folder(session_folder: Path) -> Iterator[None]:
    """Nor into their cache folder; the tests of one run share theirs, in whatever process they are.

    A graph of a built-in model that one of them exported is known to the next.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(session_folder / "cache"))
        yield


@pytest.fixture(scope="session")
def session_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all processes of one run of the tests share, and no two runs do."""
    own = tmp_path_factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


@pytest.fixture(scope="session")
def tiny_llava_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """LLaVA: 36 tokens (6 x 6) of 32 channels, projected to 48; CLS, three layers of which two are used."""
    pytest.importorskip("transformers")
    return tiny_checkpoints.llava(tmp_path_factory.mktemp("checkpoints") / "tiny-llava")


@pytest.fixture(scope="session")
def tiny_whisper_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Whisper: 100 tokens of 32 channels, two layers."""
    pytest.importorskip("transformers")
    return tiny_checkpoints.whisper(tmp_path_factory.mktemp("checkpoints") / "tiny-whisper")


@pytest.fixture(scope="session")
def tiny_vlm_encoder_onnx(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The encoder of tiny-vlm as an ONNX file with its seams: pixel_values [1, 3, 96, 96] -> tokens [1, 144, 96]."""
    return _export(None, tmp_path_factory.mktemp("onnx") / "tiny-vlm.onnx")


@pytest.fixture(scope="session")
def tiny_llava_encoder_onnx(tiny_llava_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The encoder of `tiny_llava_folder` as an ONNX file: pixel_values [1, 3, 84, 84] -> tokens [1, 36, 48]."""
    return _export(tiny_llava_folder, tmp_path_factory.mktemp("onnx") / "tiny-llava.onnx")


@pytest.fixture(scope="session")
def tiny_whisper_encoder_onnx(tiny_whisper_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The encoder of `tiny_whisper_folder` as an ONNX file: input_features [1, 80, 200] -> tokens [1, 100, 32]."""
    return _export(tiny_whisper_folder, tmp_path_factory.mktemp("onnx") / "tiny-whisper.onnx")


def _export(source: Path | None, target: Path) -> Path:
    pytest.importorskip("torch")
    pytest.importorskip("onnxscript")
    from tokexport.exporter.opening import open_source
    from tokexport.exporter.sources.torch_export import export_graph
    from tokexport.graph_passes.ir_tools.model_io import save_model

    save_model(export_graph(open_source(source and str(source)).encoder), target)
    return target
