"""The accuracy gate: a least share of right answers, for an export and for a bundle that records what it measured."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ...errors import BundleError, RequestError

if TYPE_CHECKING:
    from ...runtimes.bundle.manifest import Manifest
    from ...runtimes.bundle.reader import Bundle
    from ..result import Exported

# The key of `parity` that holds the digest of the rest of the manifest.
_SEAL = "sealed"


def check_least(least: float | None) -> None:
    """Refuse a least share of right answers that is no share.

    Raises:
        RequestError: it is outside 0..1, or NaN.
    """
    if least is not None and not 0 <= least <= 1:
        raise RequestError(f"--min-accuracy {least} is outside 0..1", fix="For 95 % write --min-accuracy 0.95.")


def of_export(manifest: Manifest, variant: str) -> dict[str, Any]:
    """What the export recorded of a variant: checks, notes and accuracy, each where there is one.

    For the first variant it is the manifest's `parity` itself, for the others its entry of that name under
    ``variants``.
    """
    if variant == manifest.variants[0].name:
        return manifest.parity
    others = manifest.parity.get("variants")
    found = others.get(variant) if isinstance(others, dict) else None
    return found if isinstance(found, dict) else {}


def recorded(bundle: Bundle, variant: str, *, needed: bool) -> dict[str, Any] | None:
    """The accuracy of a variant that the export measured on the questions of a built-in model, or None.

    Args:
        bundle: an opened bundle.
        variant: its name.
        needed: the accuracy gate needs it.

    Returns:
        At least ``{"questions", "compressed", "uncompressed"}``, the last two as shares of right answers.

    Raises:
        RequestError: it is needed, but the bundle records none.
        BundleError: the record has not these numbers.
    """
    found = of_export(bundle.manifest, variant).get("accuracy")
    if found is None:
        if needed:
            raise RequestError(
                "the bundle records no accuracy, so --min-accuracy has nothing to judge",
                where=str(bundle.path),
                fix="An export measures it where the model has questions (a built-in one, --parts all, fp32 or fp16). "
                "For a model of your own leave --min-accuracy out, and measure on your own data.",
            )
        return None
    told = found if isinstance(found, dict) else {}
    shares = [told.get(key) for key in ("compressed", "uncompressed")]
    right = all(isinstance(share, (int, float)) and not isinstance(share, bool) and 0 <= share <= 1 for share in shares)
    if not right or not isinstance(told.get("questions"), int):
        raise BundleError("the recorded accuracy is damaged", where=str(bundle.path), fix="Export the bundle again.")
    return told


def failed(manifest: Manifest) -> str:
    """What gate the export of a bundle failed, so that it lies in ``<out>.failed``; empty where it passed."""
    found = manifest.parity.get("failed")
    return found if isinstance(found, str) else ""


def seal(manifest: Manifest) -> None:
    """Record in the manifest what it says of source, variants, input and text, for `check_seal`."""
    manifest.parity[_SEAL] = _digest(json.loads(manifest.to_json()))


def check_seal(bundle: Bundle) -> None:
    """Refuse a manifest that says something else than at its export: the proof knows nothing of that.

    Keys that begin with ``x-`` are the user's own, and may change. Bundles of older versions have no seal.

    Raises:
        BundleError: it was edited.
    """
    from ...files import parse_json, read_bounded
    from ...runtimes.bundle.manifest import MANIFEST

    found = bundle.manifest.parity.get(_SEAL)
    # The text itself: a newer version may read more into it than the one that wrote it.
    if found is not None and found != _digest(parse_json(read_bounded(bundle.path / MANIFEST, follow=False))):
        raise BundleError(
            "manifest.json says something else than at the export: of a graph, a variant, the input or the text",
            where=str(bundle.path),
            fix="Put the exported manifest.json back, or export the bundle again; keys of your own begin with `x-`.",
        )


def _digest(told: dict[str, Any]) -> str:
    """SHA-256 of what is neither proof, nor list of files, nor the user's own."""
    import hashlib

    kept = {key: value for key, value in told.items() if key not in ("parity", "files", "versions")}
    return hashlib.sha256(json.dumps(_without_own(kept), sort_keys=True).encode()).hexdigest()


def _without_own(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_own(item) for key, item in value.items() if not key.startswith("x-")}
    return [_without_own(item) for item in value] if isinstance(value, list) else value


def has_accuracy(manifest: Manifest, variants: Iterable[str]) -> bool:
    """Whether the export recorded an accuracy of any of these variants."""
    return any(of_export(manifest, name).get("accuracy") is not None for name in variants)


def cure(measured: Mapping[str, Any], least: float, source: str) -> str:
    """What can be done about a `shortfall` of the model `source`."""
    own = measured["uncompressed"]
    if own < least:
        return (
            f"The uncompressed model itself reaches {own:.4f}: no method may reach {least}. Ask for less, with "
            f"--min-accuracy {math.floor(own * 100) / 100:g} at most."
        )
    return f"Removing fewer tokens loses less; `tokexport sweep {source}` compares methods and ratios."


def shortfall(measured: Mapping[str, Any] | None, least: float | None) -> str:
    """How the accuracy fails the gate; empty where it passes."""
    if least is None or measured is None or measured["compressed"] >= least:
        return ""
    return f"accuracy {measured['compressed']:.4f} is below --min-accuracy {least}"


def failure(results: Sequence[Exported], min_accuracy: float | None) -> str:
    """Which gate the variants of an export failed, or nothing."""
    from .probes import AGREEMENT

    for result in results:
        checks = _checks(result)
        bad = [check for check in checks if not check["ok"]]
        what = shortfall(result.accuracy, min_accuracy)
        if bad and bad[0]["part"] == AGREEMENT:
            what = f"{bad[0]['tensor']}: {bad[0]['detail']}"
        elif bad:
            first = bad[0]
            what = (
                f"{len(bad)} of {len(checks)} checks failed; the first: {first['part']}, tensor {first['tensor']}: "
                f"cosine {first['cosine']:.6f}, norm ratio {first['norm_ratio']:.5f}; {first['detail']}"
            )
        if what:
            return what if len(results) == 1 else f"variant {result.variant}: {what}"
    return ""


def what_to_try(results: Sequence[Exported], min_accuracy: float | None) -> str:
    """A cure that fits what failed: not fp32 for a graph that is in fp32."""
    from .probes import AGREEMENT

    bad = {check["part"] for result in results for check in _checks(result) if not check["ok"]}
    if not bad:
        (short, *_) = (one for one in results if shortfall(one.accuracy, min_accuracy))
        return cure(short.accuracy or {}, min_accuracy or 0.0, short.source)
    if bad == {AGREEMENT}:
        ways = "Measure on your own data, and give a smaller --min-agreement if the answers are still right."
        weights = results[0].llm_weights
        return ways if weights and weights["weights"] == "int8" else f"Use --llm-weights int8. Or: {ways}"
    half = results[0].precision
    if half != "fp32":
        return f"Do not ship it. Sums that {half} cannot hold stay exact with --precision fp32."
    return (
        "Do not ship it: an fp32 graph that differs from PyTorch is wrong, at any precision. Another --seam may be "
        "right (`tokexport inspect SOURCE` lists them); report this one."
    )


def _checks(result: Exported) -> list[dict[str, Any]]:
    return result.proof["checks"] if result.proof else []
