"""Makes the plugins that a graph or an engine needs known to TensorRT in this process."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ...plugins import library as plugin_library
from .api import Api


def load_plugins(api: Api, names: Sequence[str], library: Path | None) -> None:
    """Load the plugins of the library, or register those in Python where it has kernels only or there is none.

    Args:
        api: of the TensorRT.
        names: operators; nothing is done where there are none.
        library: of `found`.

    Raises:
        MissingError: TensorRT does not find them in the library.
    """
    if not names:
        return
    wanted = sorted(set(names))
    if library is not None and plugin_library.creators(library):
        plugin_library.load(api.trt, library, wanted)
    else:
        from ...plugins.python_plugin import register

        register(api.trt, wanted)


def found() -> Path | None:
    """The library of this machine: with plugins, or with the kernels that those in Python call; None without either."""
    return plugin_library.find(kernels_only=True)
