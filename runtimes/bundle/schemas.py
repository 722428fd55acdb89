"""Versions of the manifest: what each one added is said in the docstring of manifest.py."""

from __future__ import annotations

from collections.abc import Iterable

# Of every bundle that has nothing of what was added later: its readers check it strictly.
SCHEMA = "2.0"
# Of bundles with quantised weights, with states, with prompts of several images, with rebuilt tokens, with compressors
# inside the language model, and with a prefill that reads slots by position.
WEIGHTS, STATES, IMAGES, REBUILT, INNER, POSITION = "2.1", "2.2", "2.3", "2.4", "2.5", "2.6"
# Schemas that are read: major version -> its newest minor version.
READ = {1: 0, 2: 6}


def newest(schemas: Iterable[str]) -> str:
    """Of schemas such as ``2.5`` the one with the largest numbers."""
    return max(schemas, key=lambda schema: [int(part) for part in schema.split(".")])
