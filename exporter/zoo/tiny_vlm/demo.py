"""Asks a fresh bundle a question about a drawn scene, with the command a user would type, and checks the answer."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np

from .questions import questions
from .scenes import scene

SEED = 2026
ZOOM = 4


def main(bundle: Path) -> int:
    """Draw, ask with `tokexport run`, compare; exit code 1 where the answer is wrong."""
    rng = np.random.default_rng(SEED)
    drawn = scene(rng)
    (question,) = questions(drawn, rng, 1)
    picture = bundle.with_name(f"{bundle.name}-scene.png")
    picture.write_bytes(drawn.to_png())
    command = ["tokexport", "run", str(bundle), "--image", str(picture), "--prompt", question.text]
    print(f'\n$ {" ".join(command[:-1])} "{question.text}"', flush=True)
    executable = Path(sys.executable).with_name("tokexport")
    done = subprocess.run([str(executable), *command[1:]], stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        return done.returncode
    answer = done.stdout.strip()
    objects = ", ".join(f"{thing.colour} {thing.shape}" for thing in drawn.objects)
    print(answer)
    print(f"\nthe scene holds: {objects}")
    print(f"the answer is {'right' if answer == question.answer else f'WRONG, it should be: {question.answer}'}")
    print(f"bundle: {bundle.resolve()}")
    return 0 if answer == question.answer else 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
