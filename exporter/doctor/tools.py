"""Disk, memory, cores, and the tools for speech."""

from __future__ import annotations

from collections.abc import Iterator

from .findings import OK, WARNING, Finding
from .machine import Machine

_GIB = 2**30


def disk(machine: Machine) -> Iterator[Finding]:
    """Disk space where bundles are written."""
    free = f"{machine.disk / _GIB:.1f} GiB free here"
    if machine.disk < 2 * _GIB:
        fix = "Free some space, or name a folder on another disk with -o."
        yield Finding("disk", WARNING, f"{free}; a bundle holds a copy of every weight", fix)
    else:
        yield Finding("disk", OK, free)


def memory(machine: Machine) -> Iterator[Finding]:
    """Memory and cores."""
    total, free = machine.memory
    if not total:
        yield Finding("memory", OK, f"not known on {machine.system}; {machine.cores} cores")
        return
    what = f"{free / _GIB:.1f} of {total / _GIB:.1f} GiB available, {machine.cores} cores"
    if free < 2 * _GIB:
        fix = (
            "Stop the desktop (sudo systemctl isolate multi-user.target), or add swap on NVMe."
            if machine.is_jetson
            else "Close other programs."
        )
        yield Finding("memory", WARNING, f"{what}; exporting holds the weights twice", fix)
    else:
        yield Finding("memory", OK, what)


def speech(machine: Machine) -> Iterator[Finding]:
    """espeak-ng, which speaks the utterances that tiny-asr is trained and measured on."""
    path = machine.which("espeak-ng")
    if path:
        yield Finding("espeak-ng", OK, path)
    else:
        fix = "sudo apt-get install espeak-ng"
        yield Finding("espeak-ng", WARNING, "not found; only training and measuring tiny-asr needs it", fix)
