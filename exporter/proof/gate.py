"""The accuracy gate: a least share of right answers, for an export and for a bundle that records what it measured."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from ...errors import BundleError, RequestError

if TYPE_CHECKING:
    from ...runtimes.bundle.manifest import Manifest
    from ...runtimes.bundle.reader import Bundle

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
