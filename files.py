"""Opens files that somebody else made: regular ones alone, without waiting, and no larger than they may be.

Opening a pipe waits for somebody who writes, and reading a device may never end. So every file that is named by a
model, a bundle or a user is opened here.
"""

from __future__ import annotations

import errno
import json
import os
import re
import stat
import sys
from pathlib import Path
from typing import Any, BinaryIO

from .errors import RequestError

# No text that people or programs write as a configuration is larger.
LARGEST_TEXT = 64 << 20
# Deeper than any configuration, and far from where a parser or a printer runs out of stack.
DEEPEST = 64


def size(count: int) -> str:
    """Bytes as text, of up to three digits."""
    for unit, each in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        # 999.5 of a unit would be written as 1e+03.
        if count >= 0.9995 * each:
            return f"{count / each:.3g} {unit}"
    return f"{count} B"


def open_regular(path: Path | str, *, follow: bool = True) -> BinaryIO:
    """Open a regular file for reading.

    Args:
        path: of the file.
        follow: whether the file itself may be a symbolic link; ELOOP is raised where it is one and may not be.

    Raises:
        OSError: it cannot be opened, is a folder, pipe, socket or device, or its name is impossible.
    """
    # NONBLOCK: the open of a pipe returns at once. O_BINARY is of Windows.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
    try:
        descriptor = os.open(path, flags if follow else flags | getattr(os, "O_NOFOLLOW", 0))
    except ValueError:
        # A NUL, or half of a surrogate pair, cannot be in a name.
        raise OSError(errno.EINVAL, "no file can have this name", str(path)) from None
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        raise OSError(errno.EINVAL, "is a pipe, a socket or a device, and no regular file", str(path))
    return os.fdopen(descriptor, "rb")


def utf8_name(path: Path | str) -> str:
    """A path for a library that takes names as UTF-8, whatever the encoding is in which Python reads them.

    Raises:
        RequestError: its bytes are no UTF-8.
    """
    try:
        return os.fsencode(path).decode("utf-8")
    except ValueError:
        raise RequestError(
            "a name that is no UTF-8 cannot be given to ONNX Runtime and other libraries",
            where=ascii(str(path)),
            fix="Rename the file or the folder (convmv -f latin1 -t utf8 -r --notest FOLDER), or name another with -o.",
        ) from None


def read_bounded(path: Path | str, most: int = LARGEST_TEXT, *, follow: bool = True) -> bytes:
    """The content of a regular file that has at most `most` bytes; OSError (EFBIG) where it has more."""
    with open_regular(path, follow=follow) as file:
        if os.fstat(file.fileno()).st_size <= most:
            content = file.read(most + 1)
            if len(content) <= most:
                return content
    raise OSError(errno.EFBIG, f"has more than {most} bytes", str(path))


def parse_json(text: bytes | str) -> Any:
    """Parse JSON.

    Raises:
        ValueError: it is none, is nested too deeply, has a number of thousands of digits, or half a surrogate pair.
    """
    try:
        parsed = json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    shallow = _shallow(parsed)
    if re.search(r"\\u[dD][89a-fA-F]", text if isinstance(text, str) else text.decode("latin-1")):
        try:
            json.dumps(shallow, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise ValueError("it holds half a surrogate pair, which is no text") from None
    return shallow


def parse_toml(text: bytes) -> dict[str, Any]:
    """Parse TOML in UTF-8; ValueError where it is none, or nested too deeply."""
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        parsed = tomllib.loads(text.decode("utf-8").replace("\r\n", "\n"))
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    return _shallow(parsed)


def _shallow(value: Any) -> Any:
    """The value itself; ValueError where it is nested deeper than `DEEPEST`, which would fail whoever walks it."""
    level = [value]
    for _ in range(DEEPEST):
        below = [x for x in level if isinstance(x, (dict, list))]
        level = [x for part in below for x in (part.values() if isinstance(part, dict) else part)]
        if not level:
            return value
    raise ValueError(f"it is nested deeper than {DEEPEST} levels")
