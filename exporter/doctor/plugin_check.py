"""`tokexport plugins check`: the plugins that graphs need, and those that the library here really has."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def check(path: Path) -> dict[str, Any]:
    """Compare a bundle, or an ONNX file, with the plugin library of this machine; nothing is built or run.

    Returns:
        ok; needs (file -> its plugins; for a bundle the graphs that have a plugin form); library (its path, or None);
        has (what is in it); missing.

    Raises:
        TokexportError: no bundle and no ONNX file, or a library that cannot be loaded.
    """
    from ...graph_passes.ir_tools.model_io import load_model
    from ...plugins import library
    from ...runtimes.bundle.reader import open_bundle

    files = {path.name: path}
    if path.is_dir():
        graphs = [record for variant in open_bundle(path).manifest.variants for record in variant.graphs.values()]
        names = sorted({record.forms["plugin"] for record in graphs if "plugin" in record.forms})
        files = {name: path / name for name in names}
    needs = {name: library.needed(load_model(file)) for name, file in files.items()}
    found = library.find()
    has = library.creators(found) if found else []
    missing = sorted({name for wanted in needs.values() for name in wanted} - {*has})
    return {"ok": not missing, "needs": needs, "library": str(found) if found else None, "has": has, "missing": missing}
