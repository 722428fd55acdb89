"""A closer look at a few methods, with times, by one command: both sweeps, the overlay picture, and the tables.

    python benchmarks/showcase.py

Results are kept in build/showcase and not measured again; delete it to start over.
"""

from __future__ import annotations

import shutil

import overlay
import tables
from tokexport.exporter.sweeps.sweep import sweep

WORK = tables.ROOT / "build/showcase"
SHARED = ("kcenter_merge", "apet:basis_slots=none", "apet")
METHODS = {
    "tiny-vlm": (*SHARED, "pixel_unshuffle", "topk", "topk:score=norm", "topk:score=distance_to_mean"),
    "tiny-asr": (*SHARED, "topk:score=norm", "topk:score=distance_to_mean"),
}


def sweeps() -> None:
    """Both models, with the defaults of `tokexport sweep`: 1,024 questions, three seeds of them."""
    for source, methods in METHODS.items():
        out = WORK / source
        sweep(source, out, methods=methods, advance=lambda done, of, what: print(f"{done}/{of} {what}", flush=True))
        name = f"sweep_{source.replace('-', '_')}"
        for kind in ("json", "png"):
            shutil.copyfile(out / f"sweep.{kind}", tables.RESULTS / f"{name}.{kind}")


if __name__ == "__main__":
    WORK.mkdir(parents=True, exist_ok=True)
    sweeps()
    overlay.main()
    tables.write()
