"""Half of the tokens gone behind the first quarter of an encoder, at real size: what the whole encoder gains.

    python benchmarks/inside.py [TOWER ...]

Each tower has random weights, on which its time does not depend. Its graph without a compressor, and with each method
behind the layer that completes the first quarter, take turns in one process, on one thread by its own time. Where the
tower's tokens are joined by their places, they are put back behind its layers. The compressor alone is timed too, as a
share of the encoder that it sits in.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from report import RESULTS, save
from tokexport.exporter.proof.parity import between, value_names
from tokexport.exporter.sources.source import GraphSource
from tokexport.exporter.sources.torch_export import export_graph
from tokexport.exporter.timing import interleaved
from tokexport.graph_passes.compressors import make
from tokexport.graph_passes.insertion.sequence import Step, insert_steps, places
from tokexport.graph_passes.ir_tools.model_io import load_model, save_model
from tokexport.runtimes.ort.graph import ort_runner
from torch import Tensor, nn

NAME = "inside"
SEAM, RATIO, ROUNDS, THREADS = "encoder_layer:1/4", "1/2", 3, 1
METHODS: dict[str, dict[str, Any]] = {
    "uniform": {},
    "tome": {"metric": "tokens"},
    "a_tome": {"metric": "tokens"},
    "dpc_knn": {},
    "kcenter_merge": {},
}


class Tokens(nn.Module):
    """The last hidden states of a tower of transformers, without `prefix` tokens."""

    def __init__(self, tower: Any, prefix: int) -> None:
        super().__init__()
        self.tower, self.prefix = tower, prefix

    def forward(self, pixel_values: Tensor) -> Tensor:
        """[1, 3, S, S] -> [1, N, D]."""
        states: Tensor = self.tower(pixel_values).last_hidden_state
        return states[:, self.prefix :]


def clip() -> tuple[nn.Module, int]:
    """The tower of LLaVA-1.5: CLIP-L of 336 pixels, 24 layers, 576 tokens and CLS."""
    from transformers import CLIPVisionConfig, CLIPVisionModel

    config = CLIPVisionConfig(
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=24,
        num_attention_heads=16,
        image_size=336,
        patch_size=14,
    )
    return Tokens(CLIPVisionModel(config), 1), 336


def siglip() -> tuple[nn.Module, int]:
    """SigLIP-so400m of 384 pixels: 27 layers of 1152 channels, 729 tokens."""
    from transformers import SiglipVisionConfig, SiglipVisionModel

    config = SiglipVisionConfig(
        hidden_size=1152,
        intermediate_size=4304,
        num_hidden_layers=27,
        num_attention_heads=16,
        image_size=384,
        patch_size=14,
        vision_use_head=False,
    )
    return Tokens(SiglipVisionModel(config), 0), 384


def internvit() -> tuple[nn.Module, int]:
    """InternViT-300M of 448 pixels: 24 layers, 1,024 tokens and CLS, and a pixel shuffle."""
    from tokexport.exporter.families.internvl import InternVLEncoder
    from transformers import InternVLConfig, InternVLModel, InternVLVisionConfig, Qwen2Config

    vision = InternVLVisionConfig(
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=24,
        num_attention_heads=16,
        image_size=[448, 448],
        patch_size=[14, 14],
    )
    text = Qwen2Config(
        hidden_size=896, intermediate_size=64, num_hidden_layers=1, num_attention_heads=14, vocab_size=64
    )
    return InternVLEncoder(InternVLModel(InternVLConfig(vision_config=vision, text_config=text)), 0.5), 448


def qwen3_vl() -> tuple[nn.Module, int]:
    """The encoder of Qwen3-VL-2B for 448 pixels: 24 layers, 784 tokens, a merger of four, DeepStack of three layers."""
    from tokexport.exporter.families.qwen_encoder import QwenEncoder
    from transformers.models.qwen3_vl.configuration_qwen3_vl import Qwen3VLVisionConfig
    from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLVisionModel

    config = Qwen3VLVisionConfig(
        depth=24,
        hidden_size=1024,
        intermediate_size=4096,
        num_heads=16,
        out_hidden_size=2048,
        patch_size=16,
        deepstack_visual_indexes=[5, 11, 17],
    )
    return QwenEncoder(Qwen3VLVisionModel(config), (28, 28)), 448


# Tower -> how it is made, and whether its tokens are put back.
TOWERS: dict[str, tuple[Callable[[], tuple[nn.Module, int]], bool]] = {
    "clip-l-336": (clip, False),
    "siglip-so400m-384": (siglip, False),
    "internvit-300m-448": (internvit, True),
    "qwen3-vl-2b-448": (qwen3_vl, True),
}


def exported(name: str, file: Path) -> None:
    """Write the graph of a tower."""
    torch.manual_seed(0)
    make_tower, merged_rows = TOWERS[name][0], name.startswith("qwen")
    module, side = make_tower()
    inputs = {"pixel_values": torch.zeros(1, 3, side, side)}
    graph = GraphSource("encoder", module.eval(), inputs, ("tokens",), merged_rows=merged_rows)
    save_model(export_graph(graph), file, f"{file.name}.data")


def measured(name: str, folder: Path) -> dict[str, Any]:
    """The times of a tower with each method, against it without one."""
    file = folder / f"{name}.onnx"
    exported(name, file)
    (shape,) = [[int(side) for side in value.shape or ()] for value in load_model(file).graph.inputs]
    fed = {"pixel_values": np.random.default_rng(0).standard_normal(shape).astype(np.float32)}
    rows: dict[str, Any] = {}
    whole = ort_runner(load_model(file), THREADS)
    for method, params in METHODS.items():
        model = load_model(file)
        steps = [Step(make(method, params), RATIO, None, SEAM, rebuild=TOWERS[name][1])]
        inserted = insert_steps(model, steps, places(model, steps))
        node = next(node for node in model.graph if node.name == inserted.node_name)
        reads = value_names(value for value in node.inputs if value is not None)
        seen = ort_runner(between(model, ["pixel_values"], reads), THREADS)(fed)
        alone = ort_runner(between(model, reads, value_names(node.outputs)), THREADS)
        times = interleaved(
            {
                "uncompressed": partial(whole, fed),
                "compressed": partial(ort_runner(model, THREADS), fed),
                "compressor": partial(alone, {value: seen[value] for value in reads}),
            },
            ROUNDS,
            warmup=1,
            clock=time.process_time,
        )
        rows[method] = {
            "tokens": [inserted.seam.tokens, inserted.keep],
            "seam": inserted.seam.name,
            "rebuilt": bool(inserted.rebuilt),
            "uncompressed_ms": round(times["uncompressed"]),
            "times_faster": round(times["uncompressed"] / times["compressed"], 2),
            "share": round(times["compressor"] / times["compressed"], 4),
        }
        print(name, method, rows[method], flush=True)
    return rows


def main() -> None:
    """Fill the named rows of results/inside.json, each kept when it is there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("towers", nargs="*", metavar="TOWER", help="all without one: " + ", ".join(TOWERS))
    asked = parser.parse_args().towers or list(TOWERS)
    if unknown := {*asked} - {*TOWERS}:
        parser.error(f"no tower {', '.join(unknown)}; there are {', '.join(TOWERS)}")
    file = RESULTS / f"{NAME}.json"
    for name in asked:
        with tempfile.TemporaryDirectory() as scratch:
            one = measured(name, Path(scratch))
        rows = json.loads(file.read_text())["results"] if file.is_file() else {}
        rows[name] = one
        save(NAME, {each: rows[each] for each in TOWERS if each in rows}, f"python benchmarks/{NAME}.py")


if __name__ == "__main__":
    main()
