"""The README's picture: one drawn scene whole, merged by our default method, and cut down by a well-known one.

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
ANSWER = "there are two"
# Method -> the panel's title.
METHODS = {
    "kcenter_merge": "kcenter_merge + log(size)",
    "cls_topk": "cls_topk, as in FasterVLM",
}
WHOLE = "Nothing removed"
PICTURE = Path(__file__).parent.parent / "docs" / "overlay.svg"
_GOOD, _BAD, _SOFT = "#5fd38d", "#ff8a80", "#a9b6c4"


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        image = Path(folder) / "scene.png"
        image.write_bytes(scene(np.random.default_rng(SEED)).to_png())
        bundles = [Path(folder) / method for method in METHODS]
        for method, bundle in zip(METHODS, bundles):
            tokexport.export("tiny-vlm", bundle, method=method, ratio="0.85", verify=False)
        # All of the tokens, evenly spread: the model as it is.
        whole = Path(folder) / "whole"
        tokexport.export("tiny-vlm", whole, method="uniform", keep=144, verify=False)
        said = tokexport.load(whole).generate(image, QUESTION).text
        picture = draw(bundles, image, QUESTION)
    picture = _once(picture, ">144 tokens</text>", f">144 tokens: “{said}”</text>")
    picture = _once(picture, ">Input</text>", f">{WHOLE}</text>")
    for method, title in METHODS.items():
        picture = _once(picture, f">{method}</text>", f">{title}</text>")
    picture = picture.replace(" tokens: “", ": “").replace(">144: “", ">all 144 tokens: “")
    PICTURE.write_text(_judged(picture), encoding="utf-8")
    print(PICTURE)


def _once(text: str, old: str, new: str) -> str:
    assert text.count(old) == 1, old
    return text.replace(old, new)


def _judged(picture: str) -> str:
    """The picture with right and wrong said behind each answer, and in its colour."""
    parts = picture.split("”</text>")
    for number, part in enumerate(parts[:-1]):
        right = part.endswith(f"“{ANSWER}")
        before, _, after = part.rpartition(_SOFT)
        parts[number] = f"{before}{_GOOD if right else _BAD}{after}” {'✓ right' if right else '✗ wrong'}</text>"
    return "".join(parts)


if __name__ == "__main__":
    main()
