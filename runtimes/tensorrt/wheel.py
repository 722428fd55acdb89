"""Lets the wheel of TensorRT-RTX open its own plugin registry.

The registry opens `libtensorrt_rtx.so`; the wheel has only `libtensorrt_rtx.so.1`, and the process aborts. For a new
process its environment helps: a folder on LD_LIBRARY_PATH with a link of the missing name. A running process has read
LD_LIBRARY_PATH already, but the loader finds a library that is loaded by its soname: an empty library whose soname is
the missing name, and which depends on the real one, leads there.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import platform
import struct
import sys
import tempfile
from pathlib import Path

_MISSING, _REAL = "libtensorrt_rtx.so", "libtensorrt_rtx.so.1"


def environment(links: Path) -> dict[str, str]:
    """An environment in which a new process can use the wheel, its plugin registry included.

    Args:
        links: an existing folder that outlives the process; the missing name of the library is put there as a link.
    """
    env = dict(os.environ)
    # What this process imports, its child imports too, wherever it is run from.
    env["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    spec = importlib.util.find_spec("tensorrt_rtx_libs")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        for library in sorted(Path(folder).glob(f"{_MISSING}.*")):
            link = links / _MISSING
            if not link.is_symlink():
                link.symlink_to(library)
            paths = [str(links), folder, env.get("LD_LIBRARY_PATH", "")]
            env["LD_LIBRARY_PATH"] = os.pathsep.join(path for path in paths if path)
            return env
    return env


def provide_missing_name() -> None:
    """Make `dlopen("libtensorrt_rtx.so")` find the library of the wheel, where nothing else does.

    The wheel must have been imported: its library is found because it is loaded.
    """
    if platform.machine() != "x86_64":
        return
    try:
        ctypes.CDLL(_MISSING)
    except OSError:
        with tempfile.NamedTemporaryFile(prefix="tokexport-", suffix=".so") as file:
            file.write(_empty_library(_MISSING, _REAL))
            file.flush()
            # The loader keeps it mapped when the file is gone.
            ctypes.CDLL(file.name, ctypes.RTLD_GLOBAL)


def _empty_library(name: str, needed: str) -> bytes:
    """A shared object for x86-64 without code: a dynamic section that says its name and what it needs.

    Layout (ELF-64): file header, two program headers (LOAD of everything, DYNAMIC), seven dynamic entries, one empty
    symbol, the strings.
    """
    strings = b"\0" + name.encode() + b"\0" + needed.encode() + b"\0"
    dynamic, symbols = 64 + 2 * 56, 64 + 2 * 56 + 7 * 16
    text = symbols + 24
    end = text + len(strings)
    soname, need, strtab, symtab, strsz, syment, null = 14, 1, 5, 6, 10, 11, 0
    entries = [(soname, 1), (need, 2 + len(name)), (strtab, text), (symtab, symbols)]
    entries += [(strsz, len(strings)), (syment, 24), (null, 0)]
    header = b"\x7fELF\2\1\1".ljust(16, b"\0") + struct.pack(
        "<HHIQQQIHHHHHH", 3, 62, 1, 0, 64, 0, 0, 64, 56, 2, 64, 0, 0
    )
    load = struct.pack("<IIQQQQQQ", 1, 6, 0, 0, 0, end, end, 4096)
    place = struct.pack("<IIQQQQQQ", 2, 6, dynamic, dynamic, dynamic, 7 * 16, 7 * 16, 8)
    return header + load + place + b"".join(struct.pack("<QQ", *entry) for entry in entries) + bytes(24) + strings
