"""The content of the page, gathered from the results of the export; the template only lays it out."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ...runtimes.bundle.target import failed_path
from ..evaluate.usefulness import Usefulness, judge
from ..proof.metrics import GATES
from .bars import Bar, bars, metric
from .cards import cards
from .colours import PALETTE
from .curve import Curve, curve
from .facts import commands, facts

if TYPE_CHECKING:
    from ...runtimes.bundle.manifest import Manifest
    from ..bundling.graphs import Plan
    from ..result import Exported
    from .figures import Figure

PARTS = {
    "head": "the encoder before the compressor, against PyTorch",
    "compressor": "the compressor against its reference, fed the head's own tokens",
    "between": "the encoder between two compressors against PyTorch, fed the first one's own output",
    "rebuild": "the tokens put back at their places behind the encoder's last layer",
    "sequence": "positions, sizes and assignment of several compressors composed, bit for bit",
    "tail": "the encoder after the compressor against PyTorch, fed the compressor's own output",
    "text": "the embeddings of a question as the compressor reads them, against PyTorch",
    "embed": "the embeddings of the prompt with the tokens spliced in, against PyTorch",
    "prefill": "the language model on the whole prompt, against PyTorch",
    "decode": "the language model word by word, against PyTorch",
    "generation": "what the whole model says, token by token, against its own code on real inputs",
    "agreement": "the language model with quantised weights against the float one, word by word of given texts: "
    "cosine is the share of words that both find likeliest, norm ratio the perplexity over that of the float one",
}


# What the times of the cards are.
_COST = "Times are those of ONNX Runtime on the CPU that made this page, one thread, one input: ratios, not promises."


@dataclass(frozen=True)
class Part:
    """What was proved of one part.

    Attributes:
        tensors: how many were compared.
        worst: the check of the worst one.
        max_abs: the largest difference of any.
        flipped: picks that fell otherwise; None where the part picks nothing.
    """

    name: str
    tensors: int
    worst: dict[str, Any]
    max_abs: float
    flipped: int | None


@dataclass(frozen=True)
class View:
    """Everything on the page.

    Attributes:
        status: proved, failed or unverified.
        verdict: the status in one sentence.
        usefulness: the second verdict: the accuracy against that of as many random and evenly spread tokens.
        tiles: (figure, its label) at the top of the page.
        cost: what the times of the tiles are; empty without any.
        facts: (name, value) of what was done.
        proof: a row for each part, the worst first.
        checks: of the proof, the failed ones first.
        gates: the thresholds as text.
        judged: the precision whose thresholds apply.
        parts: (name, meaning) of the parts that were proved.
        metric: what the accuracy measures.
        has_merged: whether a figure shows a merged token; this and the next decide on entries of the legend.
        has_sizes: whether a figure shows a slot that stands for more than one token.
        has_lost: whether a figure shows a dropped token.
        has_dashed: whether a figure shows a slot at a position whose own token it does not hold.
        has_shared: whether two slots of a figure have the same colour.
        has_bars: whether a figure of sound shows a merged token.
        bars: of the accuracy; empty where it was not measured.
        curve: accuracy against tokens, where several variants were measured.
        commands: (what for, command).
        graphs: (role, precision, files, inputs, outputs) of the first variant.
        variants: (name, tokens, checks passed, accuracy) of each; empty where there is only one.
    """

    title: str
    source: str
    method: str
    status: str
    verdict: str
    usefulness: Usefulness
    tiles: list[tuple[str, str]]
    cost: str
    facts: list[tuple[str, str]]
    figures: list[Figure]
    no_figures: str
    proof: list[Part]
    checks: list[dict[str, Any]]
    gates: str
    judged: str
    parts: list[tuple[str, str]]
    metric: str
    has_merged: bool
    has_sizes: bool
    has_lost: bool
    has_dashed: bool
    has_shared: bool
    has_bars: bool
    drift: dict[str, float] | None
    accuracy: dict[str, Any] | None
    bars: list[Bar]
    curve: Curve | None
    notes: list[str]
    commands: list[tuple[str, str]]
    graphs: list[tuple[str, str, str, str, str]]
    variants: list[tuple[str, str, str, str]] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)
    failure: str = ""


def view(
    plan: Plan, manifest: Manifest, result: Exported, figures: list[Figure], *, failure: str = "", no_figures: str = ""
) -> View:
    """Gather the page.

    Args:
        plan: of the export.
        manifest: of the bundle.
        result: of the export.
        figures: pictures of inputs.
        failure: the gate that failed, as a sentence.
        no_figures: why there are no figures.
    """
    variant = manifest.variants[0]
    records = variant.compression
    tokens_in, tokens_out = records[0].tokens_in, records[-1].tokens_out
    method = plan.recipe or records[-1].method
    checks = sorted(result.proof["checks"], key=lambda check: bool(check["ok"])) if result.proof else []
    status, verdict = _verdict(checks, failure)
    judged = "fp32" if result.precision == "bf16" else result.precision
    least, most = GATES[judged]
    drawn = [figure.look.picks for figure in figures]
    return View(
        title=f"{result.source}, {method}, {tokens_in} to {tokens_out} tokens",
        source=result.source,
        method=method,
        status=status,
        verdict=verdict,
        usefulness=judge(result.accuracy),
        tiles=cards(
            result,
            [tokens_in, *(record.tokens_out for record in records)],
            sum(file.size for file in manifest.files.values()),
        ),
        cost=_COST if result.cost else "",
        facts=facts(plan, manifest, result.precision),
        figures=figures,
        no_figures=no_figures,
        proof=_parts(checks),
        checks=checks,
        gates=f"cosine at least {least:g}, norm ratio within {most:g} of 1",
        judged="fp32, of the reference build that can be run here" if result.precision == "bf16" else judged,
        parts=[(name, PARTS[name]) for name in dict.fromkeys(check["part"] for check in checks)],
        metric=metric(result.accuracy or {}),
        has_merged=any(picks.merged.any() for picks in drawn),
        has_sizes=any(picks.sizes.max() > 1 for picks in drawn),
        has_lost=any(picks.lost.any() for picks in drawn),
        has_dashed=any(not picks.lit[picks.kept].all() for picks in drawn),
        has_shared=any(len(picks.merging()) > len(PALETTE) for picks in drawn),
        has_bars=any(figure.bars and figure.look.picks.merged.any() for figure in figures),
        drift=result.drift,
        accuracy=result.accuracy,
        bars=bars(method, result.accuracy) if result.accuracy else [],
        curve=curve([result, *result.further]),
        notes=list(result.notes),
        commands=commands(plan, manifest, (failed_path(result.bundle) if failure else result.bundle).name),
        graphs=[
            (
                role,
                graph.precision,
                ", ".join(dict.fromkeys(graph.forms.values())),
                "; ".join(f"{name} {tensor.dtype} {tensor.shape}" for name, tensor in graph.inputs.items()),
                "; ".join(f"{name} {tensor.dtype} {tensor.shape}" for name, tensor in graph.outputs.items()),
            )
            for role, graph in variant.graphs.items()
        ],
        variants=[_variant(one) for one in (result, *result.further)] if result.further else [],
        versions={"tokexport": manifest.tokexport, **manifest.versions},
        failure=failure,
    )


def _verdict(checks: list[dict[str, Any]], failure: str) -> tuple[str, str]:
    """The status of a bundle, and it in one sentence."""
    if failure:
        return "failed", failure
    if not checks:
        return "unverified", "--no-verify was given: nothing in this bundle was compared with PyTorch."
    parts = dict.fromkeys(check["part"] for check in checks)
    return "proved", f"Every check against PyTorch passed: {', '.join(parts)}."


def _parts(checks: list[dict[str, Any]]) -> list[Part]:
    """One row for each part, the worst first: those that failed, then by cosine."""
    rows = []
    for name in dict.fromkeys(check["part"] for check in checks):
        own = [check for check in checks if check["part"] == name]
        worst = min(own, key=lambda check: (check["ok"], check["cosine"], -abs(check["norm_ratio"] - 1)))
        flipped = sum(check["flipped"] for check in own) if name == "compressor" else None
        rows.append(Part(name, len(own), worst, max(check["max_abs"] for check in own), flipped))
    return sorted(rows, key=lambda row: (row.worst["ok"], row.worst["cosine"]))


def _variant(result: Exported) -> tuple[str, str, str, str]:
    """A row of the table of variants."""
    first, last = result.compression[0], result.compression[-1]
    checks = result.proof["checks"] if result.proof else []
    return (
        result.variant,
        f"{first['tokens_in']} → {last['tokens_out']}",
        f"{sum(bool(check['ok']) for check in checks)} of {len(checks)}" if checks else "not verified",
        f"{result.accuracy['compressed']:.1%}" if result.accuracy else "–",
    )
