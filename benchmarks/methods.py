"""The methods side by side on the built-in models: the tables of docs/methods.md and docs/built-in-models.md.

    python benchmarks/methods.py              # measures what build/methods does not hold yet, then writes the tables
    python benchmarks/methods.py tiny-asr     # of this model
    python benchmarks/methods.py --tables     # writes the tables from results/ alone

With 512 questions this is a first look: `make showcase` asks six times as many for a few methods.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Iterable

import method_tables
import tables
from tokexport.exporter.sweeps.sweep import sweep

PAGE = tables.ROOT / "docs/methods.md"
RATIOS = ("0.5", "0.75", "0.85", "0.9", "0.95")
QUESTIONS = 512
ANYWHERE = (
    *("kcenter_merge", "two_scale", "apet", "apet:basis_slots=none", "tome:metric=tokens", "folder", "dpc_knn"),
    *("nearest_merge", "nearest_merge:rest=count", "nearest_merge:picks=uniform"),
)
PICTURES = (
    *ANYWHERE,
    *("tome", "visionzip", "visionzip:attention=received"),
    *("prumerge", "prumerge:rest=mean", "prumerge:plus=true", "evit", "evit:rest=mean"),
    *("divprune", "scope", "dart", "cls_topk", "cls_topk:attention=received", "vispruner", "holov", "topk"),
    *("cdpruner", "cdpruner:inverted=false", "trim", "trim:inverted=false", "sparsevlm", "adafv", "lftr_text"),
)
METHODS = {
    "tiny-vlm": (*PICTURES, "pixel_unshuffle"),
    "tiny-ocr": PICTURES,
    "tiny-asr": (
        *ANYWHERE,
        *("folder:scale_by_size=false", "a_tome:metric=tokens", "divprune", "dart:norm_of=tokens", "topk:score=norm"),
        *("scope:attention=received", "evit:attention=received", "audio_topk", "pool1d"),
    ),
    "tiny-video": (
        *ANYWHERE,
        *("temporal_pool", "pool3d", "slowfast:slow=4,fast=3", "lftr", "evs", "prunevid", "framefusion", "longvu"),
        *("codec_topk", "divprune", "dart:norm_of=tokens"),
    ),
}


def measure(sources: Iterable[str]) -> None:
    """One set of questions each."""
    for source in sources:
        out = tables.ROOT / "build/methods" / source
        out.parent.mkdir(parents=True, exist_ok=True)
        sweep(
            source,
            out,
            methods=METHODS[source],
            ratios=RATIOS,
            questions=QUESTIONS,
            seeds=1,
            advance=lambda done, of, what: print(f"{done}/{of} {what}", flush=True),
        )
        shutil.copyfile(out / "sweep.json", method_tables.result(source))
        shutil.copyfile(out / "sweep.png", method_tables.result(source).with_suffix(".png"))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", nargs="*", default=list(METHODS), help="built-in models; all of them by default")
    parser.add_argument("--tables", action="store_true", help="measure nothing")
    options = parser.parse_args()
    if not options.tables:
        measure(options.sources)
    tables.write()
