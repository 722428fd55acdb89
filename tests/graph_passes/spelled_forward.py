"""The encoder of a `Spelling` in numpy, written apart from any graph: what every spelling of it must compute."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from spellings import Spelling

D, HEADS, OUT, CHANNELS, GRID, LINE = 8, 2, 6, 2, (4, 4), 12
Arrays = dict[str, np.ndarray]
# What replaces the tokens at a stage: the tokens there and how many are the model's own, in front and behind ->
# the tokens that go on, and the sizes of all of them.
Change = Callable[[np.ndarray, int, int], tuple[np.ndarray, np.ndarray]]


def tokens_of(spelling: Spelling) -> int:
    """Tokens without those of the model's own."""
    return math.prod(GRID) if spelling.stem == "image" else LINE


class Forward:
    """One run of the encoder in float64.

    Attributes:
        stages: tokens [B, n, D] by the name of the place, before anything is changed there.
        own: by the same names, how many tokens are the model's own, in front and behind.
        attention: weights [B, H, n, n] of each layer that was run.
        keys: keys [B, n, D / H] of each, mean over the heads.
    """

    def __init__(self, spelling: Spelling, weights: Arrays, feeds: Arrays) -> None:
        self.spelling, self.w, self.feeds = spelling, weights, feeds
        self.stages: Arrays = {}
        self.own: dict[str, tuple[int, int]] = {}
        self.attention: list[np.ndarray] = []
        self.keys: list[np.ndarray] = []
        self._at, self._change = "", None  # type: ignore[var-annotated]
        self._sizes: np.ndarray | None = None

    def run(self, at: str = "", change: Change | None = None) -> Arrays:
        """The outputs by name, with the tokens changed at one stage."""
        spelling = self.spelling
        self._at, self._change, self._sizes = at, change, None
        x, outputs = self._stage("embedded", self._embedded()), {}
        for i in range(spelling.layers):
            x = self._layer(i, x)
            if i == 0 and spelling.extra == "features":
                outputs["features"] = x
        if spelling.final_norm:
            x = self._norm("norm", x)
        x = self._stage("normed", x)
        if spelling.extra == "mean":
            sizes = np.ones(x.shape[:2]) if self._sizes is None else self._sizes
            outputs["pooled"] = (x * sizes[..., None]).sum(1) / sizes.sum(1, keepdims=True)
        if spelling.extra == "cls":
            outputs["pooled"] = x[:, 0]
        if spelling.extra == "count":
            outputs["count"] = np.array([x.shape[1]])
        if spelling.drop != "none":
            front, back = self._ends()
            x = self._stage("dropped", x[:, front : x.shape[1] - back], whole=False)
        if spelling.projector:
            x = self._linear("fc1", x)
            x = self._linear("fc2", self._gelu(x + x.mean(0, keepdims=True) if spelling.mixed else x))
            x = self._stage("projected", x, whole=spelling.drop == "none")
        return {"tokens": x, **outputs}

    def _stage(self, name: str, x: np.ndarray, *, whole: bool = True) -> np.ndarray:
        self.stages[name], self.own[name] = x, self._ends() if whole else (0, 0)
        if name == self._at and self._change is not None:
            x, self._sizes = self._change(x, *self.own[name])
        return x

    def _ends(self) -> tuple[int, int]:
        learned = self.spelling.learned
        return (0, learned) if self.spelling.appended else (learned, 0)

    def _embedded(self) -> np.ndarray:
        spelling, data = self.spelling, self.feeds["data"].astype(np.float64)
        rows = len(data)
        if spelling.stem == "image":
            h, w = GRID
            blocks = data.reshape(rows, CHANNELS, h, 2, w, 2).transpose(0, 2, 4, 1, 3, 5).reshape(rows, h * w, -1)
            x = blocks @ self.w["stem"].reshape(D, -1).T + self.w["stem.bias"]
        elif spelling.stem == "frames":
            blocks = data.reshape(rows, CHANNELS, LINE, 2).transpose(0, 2, 1, 3).reshape(rows, LINE, -1)
            x = blocks @ self.w["stem"].reshape(D, -1).T + self.w["stem.bias"]
        else:
            x = data @ self.w["stem"] + self.w["stem.bias"]
        own = [np.broadcast_to(self.w[f"own{i}"], (rows, 1, D)) for i in range(spelling.learned)]
        x = np.concatenate([x, *own] if spelling.appended else [*own, x], 1)
        if spelling.position == "table":
            x = x + self.w["table"]
        elif spelling.position == "gathered":
            x = x + self.w["table"][0, : x.shape[1]]
        elif spelling.position == "input":
            x = x + self.w["table"][0, self.feeds["position_ids"]]
        return x

    def _layer(self, i: int, x: np.ndarray) -> np.ndarray:
        post = self.spelling.post_norm
        y = self._attend(i, x if post else self._norm(f"{i}.norm1", x))
        x = self._norm(f"{i}.norm1", x + y) if post else x + y
        y = x if post else self._norm(f"{i}.norm2", x)
        x = x + self._linear(f"{i}.fc2", self._gelu(self._linear(f"{i}.fc1", y)))
        if post:
            x = self._norm(f"{i}.norm2", self._stage(f"sum{i}", x))
        return self._stage(f"layer{i}", x)

    def _attend(self, i: int, x: np.ndarray) -> np.ndarray:
        rows, n, _ = x.shape
        q, k, v = (
            self._linear(f"{i}.{name}", x).reshape(rows, n, HEADS, -1).transpose(0, 2, 1, 3) for name in ("q", "k", "v")
        )
        logits = q @ k.transpose(0, 1, 3, 2) * (D // HEADS) ** -0.5
        if self._sizes is not None:
            logits = logits + np.log(self._sizes)[:, None, None]
        weights = np.exp(logits - logits.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        self.attention.append(weights)
        self.keys.append(k.mean(1))
        return self._linear(f"{i}.o", (weights @ v).transpose(0, 2, 1, 3).reshape(rows, n, D))

    def _linear(self, name: str, x: np.ndarray) -> np.ndarray:
        return x @ self.w[name] + self.w[f"{name}.bias"]

    def _norm(self, name: str, x: np.ndarray) -> np.ndarray:
        centred = x - x.mean(-1, keepdims=True)
        normed = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
        return normed * self.w[f"{name}.scale"] + self.w[f"{name}.bias"]

    def _gelu(self, x: np.ndarray) -> np.ndarray:
        if self.spelling.gelu == "relu":
            return np.maximum(x, 0)
        if self.spelling.gelu == "sigmoid":
            return x / (1 + np.exp(-1.702 * x))
        return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def drawn_weights(spelling: Spelling) -> Arrays:
    """The weights of the encoder by name, float64; products with them take [in, out]."""
    random = np.random.default_rng(spelling.seed)
    shapes = {
        "stem": {"image": (D, CHANNELS, 2, 2), "frames": (D, CHANNELS, 2), "features": (5, D)}[spelling.stem],
        "stem.bias": (D,),
        "table": (1, tokens_of(spelling) + spelling.learned, D),
        **{f"own{i}": (1, 1, D) for i in range(spelling.learned)},
        "norm.bias": (D,),
        "fc1": (D, 12),
        "fc1.bias": (12,),
        "fc2": (12, OUT),
        "fc2.bias": (OUT,),
    }
    for i in range(spelling.layers):
        shapes |= {f"{i}.{name}": (D, D) for name in ("q", "k", "v", "o")}
        shapes |= {f"{i}.{name}.bias": (D,) for name in ("q", "k", "v", "o", "norm1", "norm2", "fc2")}
        shapes |= {f"{i}.fc1": (D, 12), f"{i}.fc1.bias": (12,), f"{i}.fc2": (12, D)}
    drawn = {name: random.standard_normal(shape) * 0.5 for name, shape in shapes.items()}
    if spelling.tool == "half":
        # Beyond the range of float16 up to the next norm.
        drawn["stem"] *= 1e6
    scales = ["norm", *(f"{i}.{name}" for i in range(spelling.layers) for name in ("norm1", "norm2"))]
    return drawn | {f"{name}.scale": 1 + 0.3 * random.standard_normal(D) for name in scales}
