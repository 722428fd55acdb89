"""`tokexport.load`: a bundle, ready to run."""

from __future__ import annotations

from importlib import import_module
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import RequestError, nearest
from ..keywords import refuse_unknown

if TYPE_CHECKING:
    from .bundle.reader import Bundle
    from .session import Session

# Name -> (module, class); a module is imported when it is asked for.
RUNTIMES = {"ort": (".ort.session", "OrtSession"), "tensorrt": (".tensorrt.session", "TensorRTSession")}


def load(bundle: Bundle | Path | str, runtime: str = "ort", **options: Any) -> Session:
    """Open a bundle for running.

    Args:
        bundle: its folder, or an opened one.
        runtime: ``ort``, or ``tensorrt`` for the engines that `tokexport build` put into it.
        options: of the runtime's session: ``variant``, the name of one of the bundle's variants (default: the first; of
            a speech model, of those compressed like it, the one whose window fits the sound), threads, provider,
            device, ...; see `OrtSession` and `TensorRTSession`. None is the default of each.

    Returns:
        A session with `run`, `encode` and `generate`.

    Raises:
        RequestError: no such runtime, variant or option.
        BundleError: no bundle, damaged, incomplete or too new.
        MissingError: the runtime or its provider is not installed, or the bundle has no engines, or there is no GPU.
    """
    from .bundle.reader import Bundle, open_bundle

    if runtime not in RUNTIMES:
        raise RequestError(f"unknown runtime {runtime!r}", fix=nearest(runtime, RUNTIMES, kind="runtimes"))
    module, name = RUNTIMES[runtime]
    session: type[Session] = getattr(import_module(module, __package__), name)
    options = {name: value for name, value in options.items() if value is not None}
    check_options(runtime, provider=options.get("provider"), threads=options.get("threads"))
    takes = [option for option in signature(session).parameters if option != "bundle"]
    refuse_unknown("load", options, ["runtime", *takes])
    opened = bundle if isinstance(bundle, Bundle) else open_bundle(bundle)
    loaded = session(opened, **options)
    if options.get("variant") is None:
        loaded.reopen = lambda name: session(opened, **{**options, "variant": name})
    return loaded


def check_options(runtime: str, **given: Any) -> None:
    """Refuse options of ONNX Runtime where another runtime was asked for; None is none."""
    for name, value in given.items():
        if value is not None and runtime != "ort":
            raise RequestError(
                f"{name} {value!r} is of ONNX Runtime, and {runtime} runs the engines in the bundle",
                fix=f"Leave {name} (--{name}) out, or the runtime.",
            )
