"""An error in a method of another package is that package's, and is named as such."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from .. import entry_points
from ..errors import GraphError, TokexportError

if TYPE_CHECKING:
    from .compressors import Compressor

_OWN = __package__.partition(".")[0]


@contextmanager
def blamed(compressor: Compressor, part: str) -> Iterator[None]:
    """While a method of another package runs, turn what it raises into an error that names it.

    Args:
        compressor: of any package; what one of ours raises goes through.
        part: of it that runs: ``onnx``, ``check``, ``reference``.

    Raises:
        GraphError: anything but a `TokexportError` was raised in another package's method.
    """
    try:
        yield
    except TokexportError:
        raise
    except Exception as error:
        module = type(compressor).__module__
        if module.partition(".")[0] == _OWN:
            raise
        last = traceback.extract_tb(error.__traceback__)[-1]
        raise GraphError(
            f"method {compressor.method.name!r} of {entry_points.owner(module)} failed in its {part}(): "
            f"{entry_points.reason(error)}",
            where=f"{last.filename}, line {last.lineno}",
            fix="Report it to who maintains that package, or take another method; --debug shows the traceback.",
        ) from error
