"""Real sizes with random weights: opens and exports one, and says how long it took and how much memory.

python tests/real_size.py llava|whisper|whisper-small [FOLDER]
"""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from pathlib import Path

import tiny_checkpoints


def llava(folder: Path) -> Path:
    """CLIP-L/336 and the projector of LLaVA-1.5-7B: 576 tokens, 1024 -> 4096 channels, float16."""
    return tiny_checkpoints.llava(
        folder, hidden=1024, layers=24, heads=16, size=336, text=4096, dtype="float16", projector_hidden_act="gelu"
    )


def whisper(folder: Path) -> Path:
    """The encoder of Whisper-small: 1500 tokens of 768 channels, float32."""
    return tiny_checkpoints.whisper(folder, hidden=768, layers=12, heads=12, tokens=1500)


def whisper_small(folder: Path) -> Path:
    """All of Whisper-small: the encoder, and twelve decoder layers that write 51865 tokens, float32."""
    return tiny_checkpoints.whisper(
        folder,
        hidden=768,
        layers=12,
        decoder_layers=12,
        heads=12,
        tokens=1500,
        positions=448,
        decoder_ffn=3072,
        vocabulary=51865,
    )


MODELS = {"llava": llava, "whisper": whisper, "whisper-small": whisper_small}


def export(folder: Path, target: Path) -> dict[str, float]:
    """Seconds of each step, and the peak resident memory of this process in GB."""
    from tokexport.exporter.opening import open_source
    from tokexport.exporter.sources.torch_export import export_graph
    from tokexport.graph_passes.ir_tools.model_io import save_model

    took: dict[str, float] = {}
    clock = time.perf_counter()

    def lap(step: str) -> None:
        nonlocal clock
        took[step], clock = time.perf_counter() - clock, time.perf_counter()

    source = open_source(str(folder))
    lap("open")
    model = export_graph(source.encoder)
    lap("export")
    save_model(model, target, f"{target.name}.data")
    lap("save")
    _ = source.sha256
    lap("hash")
    took["peak GB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return took


def main() -> None:
    """Make the checkpoint where it is not there, export it, print the numbers."""
    name = sys.argv[1]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(sys.argv[2] if len(sys.argv) > 2 else f"{scratch}/{name}")
        if not folder.exists():
            MODELS[name](folder)
            print(f"made {folder}; run again with it to measure the export alone")
        print({step: round(value, 2) for step, value in export(folder, Path(scratch) / "encoder.onnx").items()})


if __name__ == "__main__":
    main()
