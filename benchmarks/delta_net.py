"""A layer of Gated DeltaNet as a graph: ours in chunks, beside what transformers' own code becomes.

python benchmarks/delta_net.py       two minutes of one core
"""

from __future__ import annotations

import collections
import copy
import time
from functools import partial
from typing import Any

import numpy as np
import torch
from report import write
from tokexport.exporter.decoders.states import Carried, DeltaNet
from tokexport.exporter.sources.source import GraphSource
from tokexport.exporter.sources.torch_export import export_graph
from tokexport.exporter.timing import interleaved
from tokexport.runtimes.ort.graph import ort_runner
from torch import Tensor, nn
from transformers import Qwen3_5TextConfig
from transformers.models.qwen3_5.modeling_qwen3_5 import Qwen3_5GatedDeltaNet

LENGTH, DIM, HEADS, WIDTH, ROUNDS = 320, 64, 2, 16, 30
SCATTERS = ("ScatterND", "ScatterElements")


class Ours(nn.Module):
    """[1, L, D] -> [1, L, D], the columns and the matrices that are carried."""

    def __init__(self, own: nn.Module) -> None:
        super().__init__()
        self.layer = DeltaNet(copy.deepcopy(own))

    def forward(self, x: Tensor, last_index: Tensor) -> tuple[Tensor, ...]:
        """See the class."""
        cache = Carried(last_index=last_index)
        real = (torch.arange(LENGTH) <= last_index[:, None]).to(x.dtype)
        return self.layer(x, cache, real), cache.made["conv_0"], cache.made["linear_0"]


class Theirs(nn.Module):
    """[1, L, D] -> [1, L, D]."""

    def __init__(self, own: nn.Module) -> None:
        super().__init__()
        self.layer = own

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return self.layer(x)


def main() -> None:
    """Export both, compare, time, write."""
    heads = {"linear_num_key_heads": HEADS, "linear_num_value_heads": HEADS}
    widths = {"linear_key_head_dim": WIDTH, "linear_value_head_dim": WIDTH}
    own = Qwen3_5GatedDeltaNet(Qwen3_5TextConfig(hidden_size=DIM, **heads, **widths), 0)
    own.requires_grad_(False).eval()
    x = torch.randn(1, LENGTH, DIM, generator=torch.Generator().manual_seed(0))
    both: dict[str, tuple[nn.Module, dict[str, Any], tuple[str, ...]]] = {
        "ours": (Ours(own), {"x": x, "last_index": torch.tensor([LENGTH - 1])}, ("out", "conv", "linear")),
        "transformers": (Theirs(own), {"x": x}, ("out",)),
    }
    rows: dict[str, dict[str, float]] = {}
    tasks, said = {}, {}
    for name, (module, inputs, outputs) in both.items():
        began = time.monotonic()
        model = export_graph(GraphSource(role="prefill", module=module.eval(), inputs=inputs, outputs=outputs))
        counts = collections.Counter(node.op_type for node in model.graph)
        rows[name] = {"nodes": sum(counts.values()), "scatters": sum(counts[kind] for kind in SCATTERS)}
        rows[name]["export_seconds"] = round(time.monotonic() - began, 1)
        run, feeds = ort_runner(model, threads=1), {key: value.numpy() for key, value in inputs.items()}
        said[name] = run(feeds)["out"]
        tasks[name] = partial(run, feeds)
    for name, ms in interleaved(tasks, ROUNDS).items():
        rows[name]["ms"] = round(ms, 3)
    np.testing.assert_allclose(said["ours"], said["transformers"], atol=1e-4)
    assert np.abs(said["ours"]).max() > 0.1, "the layer says something"
    write("delta_net", {"tokens": LENGTH, **rows}, "python benchmarks/delta_net.py")


if __name__ == "__main__":
    main()
