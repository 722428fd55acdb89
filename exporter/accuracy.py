"""Task accuracy of a bundle of a built-in model: the share of questions that it answers exactly right."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .source import Source

SEED = 0


def measure(source: Source, folder: Path, questions: int) -> dict[str, Any]:
    """Ask the bundle at `folder` in ONNX Runtime, and the uncompressed model in PyTorch, the same questions.

    Args:
        source: a built-in model.
        folder: the bundle.
        questions: how many.

    Returns:
        ``{"questions", "compressed", "uncompressed"}``, both as shares of right answers.
    """
    from ..runtimes.load import load

    asked = source.questions(questions, SEED)
    session = load(folder)
    said = [session.generate(question.input, question.prompt).text for question in asked]
    return {
        "questions": len(asked),
        "compressed": source.score(said, [question.answer for question in asked]),
        "uncompressed": source.uncompressed_accuracy(questions, SEED),
    }
