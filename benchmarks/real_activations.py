"""Activations of real size for a compressor: a tower runs once for each input, and its outputs are kept in build/.

    clip-l-336     576 x 1024 of 24 layers, grid 24 x 24: the input of LLaVA-1.5's projector, for drawn pictures
    clip-l-336 x8  eight frames of the same, each pooled 2 x 2 like in video models: 1152 x 1024, grid 8 x 12 x 12.
                   Three frames are static, three pan, then there is a cut to another static picture
    whisper-small  1500 x 768 of 12 layers, for voiced glides between pauses

Weights are random, on which a tower's time does not depend. For a second proof, two properties of trained towers are
added: two massive channels, a hundred times as large as the others in every token; and a few sinks, tokens that are
thirty times as large in those channels and receive a third of all attention. A text is 20 random rows, as small as a
language model's embeddings, and padding up to 64.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "build/real_size"
sys.path.insert(0, str(ROOT / "tests"))

LOOKS = ("plain", "massive")
ATTENTIONS = ("cls_attention", "received_attention")
_MASSIVE, _SINK, _SINKS = 100.0, 30.0, 8
_WORDS, _ROWS, _EMBEDDING = 20, 64, 0.02

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Place:
    """Where a compressor goes, at real size.

    Attributes:
        name: of the tower.
        modality: image, video or audio.
        grid: of the tokens.
        runs: of the tower for one set of tokens.
        looks: plain or massive -> tokens [1, N, D] and the signals of the tower at that place, all float32.
        tower: the ONNX file of the tower alone.
        feeds: one input of it.
    """

    name: str
    modality: str
    grid: tuple[int, ...]
    runs: int
    looks: dict[str, Arrays]
    tower: Path
    feeds: Arrays


def places() -> list[Place]:
    """All three; the first call exports and runs both towers, which takes minutes."""
    made = [_place("llava", "clip-l-336", "image", (24, 24)), _place("whisper", "whisper-small", "audio", (1500,))]
    clip = made[0]
    video = _cached("clip-l-336-x8", lambda: _video(clip))
    return [clip, Place("clip-l-336 x8", "video", (8, 12, 12), 8, _looks(video), clip.tower, clip.feeds), made[1]]


def with_text(look: Arrays, seed: int = 0) -> Arrays:
    """Tokens and signals, and the text beside them."""
    text = np.zeros((1, _ROWS, look["tokens"].shape[2]), np.float32)
    text[:, :_WORDS] = _EMBEDDING * np.random.default_rng(seed).standard_normal((1, _WORDS, text.shape[2]))
    return {**look, "text": text}


def _place(model: str, name: str, modality: str, grid: tuple[int, ...]) -> Place:
    tower = FOLDER / f"{name}.onnx"
    if not tower.is_file():
        _export(model, tower)
    feeds = dict(np.load(tower.with_suffix(".feeds.npz")))
    seen = _cached(name, lambda: _run(tower, [feeds])[0])
    return Place(name, modality, grid, 1, _looks(seen), tower, feeds)


def _export(model: str, tower: Path) -> None:
    """The graph up to its encoder output, with the signals that can be read there as further outputs."""
    import real_size
    from tokexport.exporter.opening import open_source
    from tokexport.exporter.proof.parity import between
    from tokexport.exporter.sources.torch_export import export_graph
    from tokexport.graph_passes.insertion.signals import emit_signal
    from tokexport.graph_passes.ir_tools.model_io import save_model
    from tokexport.graph_passes.seams.find import resolve

    FOLDER.mkdir(parents=True, exist_ok=True)
    folder = FOLDER / f"{model}-checkpoint"
    real_size.MODELS[model](folder)
    source = open_source(str(folder))
    graph = export_graph(source.encoder)
    seam = resolve(graph, "encoder_output")
    signals = {name: emit_signal(graph, seam, name).name or "" for name in seam.signals}
    graph.graph.sort()
    part = between(graph, [value.name or "" for value in graph.graph.inputs], [seam.tensor, *signals.values()])
    prefix = f"tokens:{seam.prefix}"
    for value, name in zip(part.graph.outputs, (prefix, *signals)):
        value.name = name
    save_model(part, tower, f"{tower.name}.data")
    np.savez(tower.with_suffix(".feeds.npz"), **source.real_inputs(1)[0])


def _run(tower: Path, inputs: list[Arrays]) -> list[Arrays]:
    """The tower's outputs for each input, by name, in float32, without prefix tokens."""
    from tokexport.graph_passes.ir_tools.model_io import load_model
    from tokexport.runtimes.ort.graph import ort_runner

    run, results = ort_runner(load_model(tower)), []
    for feeds in inputs:
        result = {}
        for name, array in run(feeds).items():
            name, _, prefix = name.partition(":")
            result[name] = array.astype(np.float32)[:, int(prefix or 0) :]
        results.append(result)
    return results


def _cached(name: str, make: Any) -> Arrays:
    path = FOLDER / f"{name}.npz"
    if not path.is_file():
        np.savez(path, **make())
    with np.load(path) as file:
        return dict(file)


def _video(clip: Place) -> Arrays:
    """Eight frames as one set: tokens and keys pooled 2 x 2, attention summed, as each token stands for four."""
    from tokexport.exporter.sources.synthetic import image

    (name,) = clip.feeds
    wide, other = image(1, 336, 420), image(2, 336, 336)
    shifts = (0, 0, 0, 28, 56, 84)
    frames = [*(wide[:, :, shift : shift + 336] for shift in shifts), other, other]
    distinct = _run(clip.tower, [{name: ((frame - 0.45) / 0.27)[None].astype(np.float32)} for frame in frames[2:7]])
    seen = [distinct[max(0, i - 2)] for i in range(7)] + [distinct[-1]]
    # A camera adds noise, so that no two frames are equal to the last bit.
    rng = np.random.default_rng(0)
    pooled = []
    for frame in seen:
        part = {}
        for key, array in frame.items():
            blocks = array.reshape(1, 12, 2, 12, 2, -1)
            joined = blocks.sum((2, 4)) if key in ATTENTIONS else blocks.mean((2, 4))
            joined = joined * (1 + 1e-3 * rng.standard_normal(joined.shape))
            part[key] = joined.reshape(1, 144, -1)[..., 0] if key in ATTENTIONS else joined.reshape(1, 144, -1)
        pooled.append(part)
    return {key: np.concatenate([part[key] for part in pooled], 1).astype(np.float32) for key in pooled[0]}


def _looks(seen: Arrays) -> dict[str, Arrays]:
    """The tower's outputs, and the same with massive channels and sinks."""
    massive, rng = {key: array.copy() for key, array in seen.items()}, np.random.default_rng(1)
    tokens = massive["tokens"]
    channels = rng.choice(tokens.shape[2], 2, replace=False)
    sinks = rng.choice(tokens.shape[1], _SINKS, replace=False)
    size = _MASSIVE * tokens.std() * np.array([1, -1], np.float32)
    tokens[..., channels] += size
    tokens[:, sinks[:, None], channels] += _SINK * size
    for key in ATTENTIONS:
        if key in massive:
            drawn = massive[key].sum(1, keepdims=True) / 3
            massive[key] *= 2 / 3
            massive[key][:, sinks] += drawn * np.linspace(1, 2, _SINKS, dtype=np.float32) / (1.5 * _SINKS)
    return {"plain": seen, "massive": massive}
