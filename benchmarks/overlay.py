"""The README's picture: the tokens that three methods keep of one drawn scene, and the model's answers.

Run `python benchmarks/overlay.py`; it writes docs/overlay.svg.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import tokexport
from tokexport.exporter.report.picture import draw
from tokexport.exporter.zoo.tiny_vlm.scenes import scene

SEED = 2026
QUESTION = "how many stars are there ?"
METHODS = {"kcenter_merge": {}, "apet": {}, "topk": {"score": "cls_attention"}}
PICTURE = Path(__file__).parent.parent / "docs" / "overlay.svg"


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        image = Path(folder) / "scene.png"
        image.write_bytes(scene(np.random.default_rng(SEED)).to_png())
        bundles = [Path(folder) / method for method in METHODS]
        for (method, params), bundle in zip(METHODS.items(), bundles):
            tokexport.export("tiny-vlm", bundle, method=method, ratio="0.85", params=params, verify=False)
        PICTURE.parent.mkdir(exist_ok=True)
        PICTURE.write_text(draw(bundles, image, QUESTION), encoding="utf-8")
    print(PICTURE)


if __name__ == "__main__":
    main()
