"""tokexport: token compression inside exported model graphs, proved against PyTorch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .version import __version__ as __version__

if TYPE_CHECKING:
    from .exporter.pipeline import export
    from .exporter.speed.bench import bench
    from .graph_passes.compress import compress
    from .graph_passes.compressors import methods
    from .graph_passes.reference import reference
    from .runtimes.load import load

__all__ = ["bench", "compress", "export", "load", "methods", "reference"]

_HOMES = {
    "bench": ".exporter.speed.bench",
    "compress": ".graph_passes.compress",
    "export": ".exporter.pipeline",
    "load": ".runtimes.load",
    "methods": ".graph_passes.compressors",
    "reference": ".graph_passes.reference",
}


def __dir__() -> list[str]:
    """The public names too, which `help()` and completion look for; a listing of them imports nothing."""
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: `import tokexport` itself loads nothing."""
    if name not in _HOMES:
        raise AttributeError(f"module 'tokexport' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name], __name__), name)
