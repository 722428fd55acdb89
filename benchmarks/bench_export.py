"""How long the main command takes: `tokexport model` on tiny-vlm with its proof, and `tokexport --help`."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from report import write

TOKEXPORT = Path(sys.executable).with_name("tokexport")
COMMANDS = {
    "help": ["--help"],
    "methods": ["methods"],
    "model": ["model", "--method", "apet", "--ratio", "0.85", "-o", "out"],
    "model_fp16": ["model", "--method", "apet", "--ratio", "0.85", "--precision", "fp16", "-o", "out16"],
    "verify": ["verify", "out"],
}


def main() -> None:
    results = {}
    with tempfile.TemporaryDirectory() as scratch:
        for name, arguments in COMMANDS.items():
            seconds = []
            for _ in range(2 if name.startswith("model") else 5):
                start = time.perf_counter()
                subprocess.run([TOKEXPORT, *arguments], cwd=scratch, check=True, capture_output=True)
                seconds.append(time.perf_counter() - start)
            results[name] = {"command": " ".join(["tokexport", *arguments]), "seconds": round(min(seconds), 2)}
    write("export", results, "python benchmarks/bench_export.py")


if __name__ == "__main__":
    main()
