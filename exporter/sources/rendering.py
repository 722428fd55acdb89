"""Renders chat templates in a process of its own, within limits of time and memory.

A template comes with a checkpoint. The sandbox of transformers lets it call nothing, but it may still loop without end
or write gigabytes, which only the end of a process stops.

As a program it reads {"template", "marks", "questions", "media", "written", "images"} from stdin, and writes
{"rendered"} or {"error"}.
"""

from __future__ import annotations

import functools
import itertools
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

# Of computing, after the imports; a template takes milliseconds.
_SECONDS = 5
_BYTES = 2 << 30
_LONGEST = 1 << 20


@functools.lru_cache(maxsize=16)
def rendered(
    template: str,
    questions: tuple[str, ...],
    bos: str,
    eos: str,
    media: str = "image",
    written: str = "",
    images: int = 1,
) -> list[str]:
    """One turn of a user with a sound or images and a question, up to where the answer begins, for each question.

    Args:
        template: of a checkpoint, in Jinja.
        questions: any texts.
        bos: ``bos_token`` of the tokenizer.
        eos: ``eos_token``.
        media: what stands before the question: image, video or audio.
        written: what stands for it, where a template takes a text, and no list of parts.
        images: with 2 or more, the questions are asked with one of it, then again with two, up to so many.

    Raises:
        ValueError: it fails, or takes too long or too much; says how.
    """
    marks = {"bos_token": bos, "eos_token": eos}
    asked = {"questions": questions, "media": media, "written": written, "images": images}
    request = json.dumps({"template": template, "marks": marks, **asked})
    done = subprocess.run(
        [sys.executable, "-m", __name__], input=request, capture_output=True, text=True, check=False, errors="replace"
    )
    try:
        answer: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        raise ValueError(f"it takes more than {_SECONDS} s or {_BYTES >> 30} GiB") from None
    if "error" in answer:
        raise ValueError(answer["error"])
    found: list[str] = answer["rendered"]
    return found


def _render(
    template: str, marks: Mapping[str, str], questions: Sequence[str], media: str, written: str, images: int
) -> list[str]:
    from transformers.utils.chat_template_utils import render_jinja_template

    turns = []
    # Templates know a sound by its type, or by the key of its address.
    part = {"type": media, **({"audio_url": ""} if media == "audio" else {})}
    for count, question in itertools.product(range(1, images + 1), questions):
        parts: list[dict[str, Any]] = [*[part] * count, {"type": "text", "text": question}]
        turns.append([{"role": "user", "content": written * count + question if written else parts}])
    _limit()
    made: list[str] = render_jinja_template(turns, chat_template=template, add_generation_prompt=True, **marks)[0]
    return made


def _limit() -> None:
    """A process that goes beyond is killed, or fails to allocate."""
    try:
        import resource
    except ImportError:  # Windows has no limits.
        return
    used = resource.getrusage(resource.RUSAGE_SELF)
    resource.setrlimit(resource.RLIMIT_CPU, (int(used.ru_utime + used.ru_stime) + _SECONDS,) * 2)
    resource.setrlimit(resource.RLIMIT_AS, (_virtual() + _BYTES,) * 2)


def _virtual() -> int:
    """Bytes of address space that are taken already."""
    import resource

    try:
        return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    except OSError:
        return 1 << 36


def main() -> None:
    """The program; see the module docstring."""
    request = json.loads(sys.stdin.read())
    try:
        made = _render(**request)
        longest = max(map(len, made))
        if longest > _LONGEST:
            raise ValueError(f"it makes {longest} characters of one question")
        answer: dict[str, Any] = {"rendered": made}
    except MemoryError:
        answer = {"error": f"it takes more than {_BYTES >> 30} GiB"}
    except Exception as error:
        # Templates raise errors of any kind.
        answer = {"error": str(error) or type(error).__name__}
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
