"""One method at one place of real size: its own graph, proof, node count, time and engines."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from math import ceil
from time import process_time
from typing import Any

import numpy as np
import onnx_ir as ir
from learned_weights import random_weights
from real_activations import ATTENTIONS, FOLDER, LOOKS, Arrays, Place, with_text
from tokexport.errors import RequestError
from tokexport.exporter.timing import interleaved
from tokexport.graph_passes import forms
from tokexport.graph_passes.agreement import compare
from tokexport.graph_passes.compressors import OUTPUTS, Case, Compressed, Compressor, make
from tokexport.graph_passes.compressors.base import Learned
from tokexport.graph_passes.insertion.insert import insert
from tokexport.graph_passes.ir_tools.builder import DTYPES, OPSET
from tokexport.graph_passes.ir_tools.model_io import load_model
from tokexport.graph_passes.seams.seam import Seam, Signal
from tokexport.runtimes.ort.graph import ort_runner
from tokexport.runtimes.tensorrt import rtx

RATIO, COUNT = 0.85, 128
DTYPES_PROVED = ("float32", "float16")
# Where the papers' defaults do not fit: ten of fifty frames become four of eight, and twelve heads do not divide 1024.
PARAMS: dict[str, dict[str, Any]] = {"slowfast": {"slow": 4}, "ttm": {"heads": 16}}
_ROUNDS, _LEAST_MS = 3, 20.0


@dataclass(frozen=True)
class Cell:
    """A method at a place.

    Attributes:
        method: its name.
        place: where.
    """

    method: str
    place: Place

    @property
    def stem(self) -> str:
        """Of files."""
        return f"{self.method}@{self.place.name.replace(' ', '-')}"

    @cached_property
    def params(self) -> dict[str, Any]:
        """Parameters other than the paper's: without CLS, tokens are ranked by received attention."""
        params = dict(PARAMS.get(self.method, {}))
        there = self.place.looks["plain"]
        if "cls_attention" in make(self.method, params).signals() and "cls_attention" not in there:
            params |= {"score": "norm"} if self.method == "topk" else {"attention": "received"}
        return params

    def case(self, keep: int, dtype: str = "float32") -> Case:
        """The case; K is the nearest number to `keep` that the method reaches, the smaller of two."""
        tokens = self.place.looks["plain"]["tokens"]
        compressor, case = make(self.method, self.params), Case(*tokens.shape[1:], keep, dtype, self.place.grid)
        refused: RequestError | None = None
        for near in sorted(range(1, case.tokens), key=lambda k: (abs(k - keep), k)):
            try:
                compressor.check(replace(case, keep=near))
            except RequestError as error:
                refused = refused or error
                continue
            return replace(case, keep=near)
        assert refused is not None
        raise refused

    @property
    def keep(self) -> int:
        """K at `RATIO`, whether the method reaches it or not."""
        n = self.place.looks["plain"]["tokens"].shape[1]
        return n - ceil(RATIO * n)

    def compressor(self, case: Case) -> Compressor:
        """With random weights where it has weights."""
        compressor = make(self.method, self.params)
        if not isinstance(compressor, Learned):
            return compressor
        file = FOLDER / "weights" / f"{self.stem}-{case.keep}.npz"
        if not file.is_file():
            file.parent.mkdir(parents=True, exist_ok=True)
            random_weights(self.method, self.params, case, file)
        return make(self.method, {**self.params, "weights": str(file)})

    def look(self, name: str, case: Case) -> Arrays:
        """Tokens and the signals that it reads, in the types that a model of this precision has them."""
        there = with_text(self.place.looks[name])
        wanted = {key: there[key] for key in ("tokens", *make(self.method, self.params).signals())}
        return {key: array if key in ATTENTIONS else array.astype(case.dtype) for key, array in wanted.items()}

    def graph(self, case: Case) -> ir.Model:
        """Tokens and signals as inputs, the compressor's node, and its four outputs: the portable form."""
        compressor, inputs = self.compressor(case), []
        for key, array in self.look("plain", case).items():
            kind = DTYPES["float32" if key in ATTENTIONS else case.dtype]
            name = key if key == "text" else {"tokens": "x"}.get(key, f"tokens.{key}")
            inputs.append(ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(kind)))
        node = ir.node("Identity", inputs[:1])
        node.outputs[0].name, node.outputs[0].type, node.outputs[0].shape = "tokens", inputs[0].type, inputs[0].shape
        graph = ir.Graph(inputs, node.outputs, nodes=[node], opset_imports={"": OPSET}, name=self.method)
        model = ir.Model(graph, ir_version=10)
        signals = {name: Signal("keys", ()) for name in compressor.signals() if name != "text"}
        seam = Seam("tensor:tokens", "tokens", case.tokens, case.dim, case.dtype, grid=case.grid, signals=signals)
        insert(model, seam, compressor, case.keep)
        return model

    def run(self, case: Case, threads: int | None = None) -> Callable[[Arrays], Compressed[np.ndarray]]:
        """Its graph in ONNX Runtime."""
        model = self.graph(case)
        session = ort_runner(model, threads)
        given = [value.name or "" for value in model.graph.inputs]
        node_outputs = [value.name or "" for value in model.graph.outputs]

        def run(look: Arrays) -> Compressed[np.ndarray]:
            results = session(dict(zip(given, look.values())))
            return Compressed(*(results[name] for name in node_outputs[: len(OUTPUTS)]))

        return run

    def proof(self) -> dict[str, Any]:
        """dtype and look -> how the body agrees with the reference; in half precision where the place is `first`."""
        proved = {}
        for dtype in DTYPES_PROVED if self.first else DTYPES_PROVED[:1]:
            case = self.case(self.keep, dtype)
            compressor, run = self.compressor(case), self.run(case, threads=1)
            for name in LOOKS:
                look = self.look(name, case)
                tokens, *signals = look.values()
                found = compare(compressor, case, tokens, run(look), dict(zip(list(look)[1:], signals)))
                proved[f"{dtype} {name}"] = asdict(found)
        return proved

    def nodes(self) -> dict[str, Any]:
        """Of the body, constants among them."""
        found = {}
        for name, keep in (("", self.keep), ("_128", COUNT)):
            case = self.case(keep)
            (function,) = self.graph(case).functions.values()
            found |= {f"keep{name}": case.keep, f"nodes{name}": len(function)}
        return found

    @property
    def first(self) -> bool:
        """Whether the place has the first kind of input that the method takes."""
        takes = make(self.method).method.modalities
        return self.place.modality == next(kind for kind in ("image", "video", "audio") if kind in takes)

    @property
    def again(self) -> bool:
        """Whether it is measured there too: on sound, unless it has trained weights."""
        compressor, sound = make(self.method), "audio"
        takes = sound in compressor.method.modalities and not isinstance(compressor, Learned)
        return not self.first and self.place.modality == sound and takes

    def steps(self) -> list[str]:
        """The names of what is measured; engines only where it is `first`."""
        engines = ["portable", "inlined", *(["plugin"] if make(self.method).method.plugin_form else [])]
        return ["nodes", "proof", "time", *(engines if self.first else [])]

    def measure(self, step: str) -> dict[str, Any]:
        """One of these measurements, except the time, which is measured in turns with others."""
        return {"nodes": self.nodes, "proof": self.proof}[step]() if step in ("nodes", "proof") else self.engine(step)

    def engine(self, form: str) -> dict[str, Any]:
        """Seconds and bytes of its engine in TensorRT-RTX, or why there is none."""
        model = self.graph(self.case(self.keep))
        if form != "portable":
            model = {"inlined": forms.to_inlined, "plugin": forms.to_plugin}[form](model)
        built = rtx.build(ir.to_proto(model).SerializeToString(), plugins="python" if form == "plugin" else None)
        return {"seconds": round(built.seconds, 1), "bytes": built.bytes, "errors": "; ".join(map(str, built.errors))}


def times(cells: list[Cell]) -> Iterator[tuple[Cell, dict[str, Any]]]:
    """Milliseconds at `RATIO` beside those of the tower, all in turns, for cells of one place.

    On one thread: on a busy machine two threads wait for each other, which distorts the time of small nodes.
    """
    if not cells:
        return
    place, repeats = cells[0].place, {}
    tower = ort_runner(load_model(place.tower), threads=1)
    tasks: dict[str, Callable[[], Any]] = {"tower": lambda: tower(place.feeds)}
    for cell in cells:
        case = cell.case(cell.keep)
        run, look = cell.run(case, threads=1), cell.look("plain", case)
        once = interleaved({"": lambda run=run, look=look: run(look)}, 1, warmup=1, clock=process_time)[""]
        repeats[cell.method] = max(1, min(20, int(_LEAST_MS / max(once, 1e-3))))
        many = range(repeats[cell.method])
        tasks[cell.method] = lambda run=run, look=look, many=many: [run(look) for _ in many]
    took = interleaved(tasks, _ROUNDS, warmup=1, clock=process_time)
    for cell in cells:
        ms, whole = took[cell.method] / repeats[cell.method], place.runs * took["tower"]
        yield cell, {"ms": round(ms, 3), "tower_ms": round(whole, 1), "share": round(ms / whole, 6)}
