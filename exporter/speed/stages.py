"""What is timed of a bundle: one answer, or one run of the encoder, by the code of the runtime itself."""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ...runtimes.choose import Rules
from ...runtimes.generate import Run, begin, go_on
from ...runtimes.images import joined

if TYPE_CHECKING:
    from ...runtimes.session import Session


@dataclass(frozen=True)
class Sample:
    """What a bundle is given.

    Attributes:
        media: the encoder's inputs by role, of each image, video or sound of the prompt; ready to run.
        ids: of the prompt; None: nothing of the bundle reads one.
        said: what it is, for people.
        notes: what to know of it.
    """

    media: list[dict[str, np.ndarray]]
    ids: list[int] | None
    said: str
    notes: tuple[str, ...] = ()


class Stages:
    """A bundle that answers again and again.

    An answer never ends by itself: it has as many tokens as are asked for, whatever they are.

    Args:
        session: of the bundle.
        sample: what it is asked.
        tokens: lengths of answers; those that the bundle cannot give are left out.

    Attributes:
        most: tokens of the longest answer that it can give; 0 without language graphs.
        names: what `once` times.
    """

    def __init__(self, session: Session, sample: Sample, tokens: Sequence[int]) -> None:
        self.session, self._sample = session, sample
        record = session.variant.generation
        self.most = record.max_new_tokens if record else 0
        self._limit = min(max(tokens), self.most)
        self._answers = {f"answer_{n}": n for n in sorted({*tokens}) if 1 < n <= self._limit}
        self.names = ["encoder"]
        if record:
            rules = Rules.of(record)
            self._rules = replace(rules, suppress=(*rules.suppress, *record.eos))
            self.names += ["prefill", "first_token", *(["token"] if self._limit > 1 else []), *self._answers]

    def once(self) -> dict[str, Any]:
        """Milliseconds of one answer.

        Returns:
            ``encoder``, with the graph of the question where it reads one; and where there are language graphs
            ``prefill`` (embed too), ``first_token`` (from the input to the choice of the first token), ``answer_<n>``
            (to that of token n), and ``token``, a list: from each choice to the next.
        """
        start = time.perf_counter()
        encoded = self._encode()
        seen = time.perf_counter()
        taken: dict[str, Any] = {"encoder": seen - start}
        if not self._limit:
            return _milliseconds(taken)
        run = _Marked(self.session.steps())
        begun = begin(run, self.session.variant, encoded, [self._sample.ids or []])
        taken["prefill"] = time.perf_counter() - seen
        go_on(run, begun, self._limit, self._rules)
        chosen = [*run.asked, time.perf_counter()]
        taken["first_token"] = chosen[0] - start
        taken["token"] = [later - earlier for earlier, later in itertools.pairwise(chosen)]
        taken |= {name: chosen[length - 1] - start for name, length in self._answers.items()}
        return _milliseconds({name: taken[name] for name in self.names})

    def _encode(self) -> Mapping[str, np.ndarray]:
        ids, record = self._sample.ids, self.session.variant.generation
        placeholder = record.placeholder if record else None
        words = [i for i in ids or [] if i != placeholder] if self.session.reads_text else None
        read = []
        for inputs in self._sample.media:
            (_, main), *others = inputs.items()
            read.append(self.session.encode(main, words, **dict(others)))
        return joined(read) if record and record.images else read[0]


class _Marked:
    """Runs graphs, and notes when decode is asked for: the token before was chosen just then."""

    def __init__(self, run: Run) -> None:
        self._run, self.asked = run, list[float]()

    def __call__(self, role: str, /, **inputs: Any) -> Mapping[str, Any]:
        if role == "decode":
            self.asked.append(time.perf_counter())
        return self._run(role, **inputs)


def _milliseconds(taken: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: [1e3 * one for one in value] if isinstance(value, list) else 1e3 * value for name, value in taken.items()
    }
