"""ONNX Runtime runs where it was asked to, or says what is missing: it would fall back to the CPU without a word."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import toy_bundle
from PIL import Image
from tokexport.errors import GraphError, MissingError, RequestError
from tokexport.graph_passes.ir_tools import providers
from tokexport.graph_passes.ir_tools.ort_session import open_session
from tokexport.runtimes.load import load
from tokexport.runtimes.ort.session import OrtSession

ort = pytest.importorskip("onnxruntime")
PIXELS, IMAGE = np.zeros((1, 3, 4, 4), np.float32), Image.new("RGB", (9, 5), "red")
REAL = ort.InferenceSession


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy_bundle.write(tmp_path_factory.mktemp("providers") / "toy")


@pytest.fixture
def gpu_build(monkeypatch: pytest.MonkeyPatch) -> None:
    """What onnxruntime-gpu says it has, whether or not its libraries load."""
    there = [providers.TENSORRT, providers.CUDA, providers.CPU]
    monkeypatch.setattr(ort, "get_available_providers", lambda: there)


class OnGpu:
    """A session that says of its nodes that all but one run on the GPU; notes how each was made."""

    made: list[tuple[Any, dict[str, Any]]]

    def __init__(self, model: Any, options: Any, providers: Any, **more: Any) -> None:
        self.made.append((providers, dict(more)))
        self._first = providers[0] if isinstance(providers[0], str) else providers[0][0]
        more.pop("enable_fallback", None)
        self._session = REAL(model, options, providers=["CPUExecutionProvider"], **more)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def get_providers(self) -> list[str]:
        return [self._first, providers.CPU]

    def get_provider_graph_assignment_info(self) -> list[Any]:
        parts = self._session.get_provider_graph_assignment_info()
        return [
            SimpleNamespace(ep_name=providers.CPU if number == 0 else self._first, get_nodes=part.get_nodes)
            for number, part in enumerate(parts)
        ]


@pytest.fixture
def on_gpu(gpu_build: None, monkeypatch: pytest.MonkeyPatch) -> type[OnGpu]:
    OnGpu.made = []
    monkeypatch.setattr(ort, "InferenceSession", OnGpu)
    return OnGpu


@pytest.mark.skipif(providers.CUDA in ort.get_available_providers(), reason="onnxruntime-gpu is installed here")
@pytest.mark.parametrize("name", ["cuda", "tensorrt"])
def test_a_build_without_the_provider_is_refused_with_the_command(folder: Path, name: str) -> None:
    with pytest.raises(MissingError) as refused:
        load(folder, provider=name)
    wrong = "uninstall -y onnxruntime && pip install" if providers.platform.machine() != "aarch64" else "NVIDIA's wheel"
    assert wrong in str(refused.value)


@pytest.mark.filterwarnings("ignore:Specified provider")
@pytest.mark.parametrize("name", ["cuda", "tensorrt"])
def test_onnxruntime_that_falls_back_to_the_cpu_is_refused(folder: Path, gpu_build: None, name: str) -> None:
    """Here the session of onnxruntime itself, which has the CPU alone and goes on with it."""
    session = load(folder, provider=name)
    with pytest.raises(MissingError, match=r"does not load here.*tokexport doctor"):
        session.encode(PIXELS)
    with pytest.raises(MissingError, match="does not load here"):
        open_session(toy_bundle.model(toy_bundle.EMBED), provider=name)


@pytest.mark.parametrize(
    ("library", "cure"),
    [
        ("libcublasLt.so.13", 'pip install "onnxruntime-gpu[cuda,cudnn]"'),
        ("libcudnn.so.9", 'pip install "onnxruntime-gpu[cuda,cudnn]"'),
        ("libnvinfer.so.10", 'pip install "tensorrt<11"'),
        ("libcuda.so.1", "sudo ubuntu-drivers install"),
    ],
)
@pytest.mark.filterwarnings("ignore:Specified provider")
def test_the_library_that_is_missing_is_named_with_its_cure(
    folder: Path, gpu_build: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, library: str, cure: str
) -> None:
    (tmp_path / "capi").mkdir()
    (tmp_path / "capi" / "libonnxruntime_providers_cuda.so").touch()
    monkeypatch.setattr(ort, "__file__", str(tmp_path / "__init__.py"))

    def dlopen(path: str) -> None:
        assert path.endswith("libonnxruntime_providers_cuda.so")
        raise OSError(f"{library}: cannot open shared object file: No such file or directory")

    monkeypatch.setattr(providers.ctypes, "CDLL", dlopen)
    with pytest.raises(MissingError) as refused:
        load(folder, provider="cuda").encode(PIXELS)
    assert f"{library} is not found" in str(refused.value) and cure in str(refused.value)


def test_a_graph_that_is_wrong_is_told_from_a_gpu_that_is_not_there(
    folder: Path, on_gpu: type[OnGpu], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Wrong(OnGpu):
        def __init__(self, model: Any, *rest: Any, **more: Any) -> None:
            if not isinstance(model, bytes):
                raise RuntimeError("no such operator")
            super().__init__(model, *rest, **more)

    monkeypatch.setattr(ort, "InferenceSession", Wrong)
    with pytest.raises(GraphError, match="cannot load it: no such operator"):
        load(folder, provider="cuda").encode(PIXELS)

    def absent(*_: Any, **more: Any) -> None:
        raise RuntimeError("CUDA failure 100: no CUDA-capable device is detected\nmore")

    monkeypatch.setattr(ort, "InferenceSession", absent)
    with pytest.raises(MissingError, match=r"CUDA failure 100: no CUDA-capable device is detected\. .*doctor"):
        load(folder, provider="cuda").encode(PIXELS)


def test_on_a_gpu_answers_are_right_graphs_run_plainly_and_notes_say_what_is_copied(
    folder: Path, on_gpu: type[OnGpu]
) -> None:
    session = load(folder, provider="cuda", threads=1)
    assert isinstance(session, OrtSession) and session.steps() == session.run
    assert session.generate(IMAGE, "b a").ids == load(folder, threads=1).generate(IMAGE, "b a").ids
    order, more = on_gpu.made[0]
    assert order == [("CUDAExecutionProvider", {"use_tf32": "0"}), "CPUExecutionProvider"]
    assert more == {"enable_fallback": 0}
    notes = "; ".join(session.notes())
    assert "provider cuda: KV caches are copied to it at every token" in notes
    if hasattr(REAL, "get_provider_graph_assignment_info"):
        assert re.search(r"provider cuda: encoder: 1 of \d nodes run on the CPU", notes)
    open_session(toy_bundle.model(toy_bundle.EMBED), provider="tensorrt")
    assert [one if isinstance(one, str) else one[0] for one in on_gpu.made[-1][0]] == [
        providers.TENSORRT,
        providers.CUDA,
        providers.CPU,
    ]


def test_names_are_ours_or_those_of_onnxruntime(folder: Path) -> None:
    assert providers.provider_of("cpu") == providers.provider_of("CPUExecutionProvider") == providers.CPU
    assert [providers.short(name) for name in (providers.CUDA, "cuda", "OpenVINOExecutionProvider")] == [
        "cuda",
        "cuda",
        "OpenVINO",
    ]
    with pytest.raises(RequestError, match=r"unknown provider 'cudda'\. Did you mean cuda"):
        load(folder, provider="cudda")
    with pytest.raises(RequestError, match="Did you mean provider="):
        load(folder, providers=["cuda"])
    with pytest.raises(RequestError, match=r"provider 'cpu' is of ONNX Runtime, and tensorrt.*--provider"):
        load(folder, "tensorrt", provider="cpu")
