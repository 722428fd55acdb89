"""Writes the JUnit XML report of a verification, which the test pages of GitHub, GitLab and Jenkins read."""

from __future__ import annotations

import platform
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from itertools import groupby
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from ...errors import BundleError, MissingError, RequestError
from ...runtimes.bundle.reader import open_bundle
from ...version import __version__
from ..progress import Progress
from ..render import flat
from .junit_cases import Case, of_error, of_result

if TYPE_CHECKING:
    from ...runtimes.bundle.manifest import Manifest

# What XML 1.0 cannot hold, not even escaped.
_ILLEGAL = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


class Report:
    """Times the steps of one verification, and writes the report however it ends, unless it is interrupted.

    Args:
        file: the XML file. It is emptied at once, so that no report of an earlier run remains.
        bundle: the bundle that is verified.
        show: called with the name of each step.

    Attributes:
        result: of `verify`, to be set before the report is closed.

    Raises:
        MissingError: junitparser is not installed.
        RequestError: the file cannot be written, or lies in the bundle.
    """

    def __init__(self, file: Path, bundle: Path, show: Progress) -> None:
        try:
            import junitparser  # noqa: F401
        except ImportError as error:
            raise MissingError(
                "junitparser is not installed, and --junit writes with it", fix='pip install "tokexport[junit]"'
            ) from error
        if file.resolve().is_relative_to(bundle.resolve()):
            raise RequestError(
                "--junit names a file inside the bundle, where only an export writes",
                where=str(file),
                fix="Name one outside: --junit report.xml",
            )
        self.result: dict[str, Any] = {}
        self._file, self._bundle, self._show = file, bundle, show
        self._seconds: dict[tuple[str, str], float] = {}
        self._at, self._began = ("", ""), perf_counter()
        self._write(b"")

    def step(self, text: str) -> None:
        """Begin the step "suite: case"; the one before ends here."""
        self._stop()
        suite, _, case = text.partition(": ")
        self._at = (suite, case)
        self._show(text)

    def __enter__(self) -> Report:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if error is not None and not isinstance(error, Exception):
            if self._file.is_file():
                self._file.unlink()
            return
        self._stop()
        manifest = None
        with suppress(BundleError):
            manifest = open_bundle(self._bundle).manifest
        if error is None:
            cases = of_result(self.result, self._seconds, manifest, self._bundle)
        else:
            cases = of_error(error, self._at, self._seconds, manifest)
        name = self._bundle.resolve().name
        self._write(_xml(cases, name, [("bundle", name), *_properties(manifest)]))

    def _stop(self) -> None:
        now = perf_counter()
        if self._at[0]:
            self._seconds[self._at] = self._seconds.get(self._at, 0.0) + now - self._began
        self._began = now

    def _write(self, content: bytes) -> None:
        try:
            self._file.write_bytes(content)
        except OSError as error:
            raise RequestError(
                f"--junit cannot be written: {error.strerror}",
                where=str(self._file),
                fix="Name a file in a folder that exists and may be written: --junit report.xml",
            ) from None


def _xml(cases: Iterable[Case], bundle: str, properties: list[tuple[str, str]]) -> bytes:
    """The file: a suite for each of the cases' suites, each with all properties."""
    import junitparser

    verdicts = {"failure": junitparser.Failure, "error": junitparser.Error, "skipped": junitparser.Skipped}
    report = junitparser.JUnitXml("tokexport verify")
    for name, group in groupby(cases, lambda case: case.suite):
        suite = junitparser.TestSuite(name)
        for key, value in properties:
            suite.add_property(key, _legal(value))
        for case in group:
            # GitLab shows the class name as the suite, and merges cases of equal class and name.
            made = junitparser.TestCase(_legal(case.name), _legal(f"{bundle}.{name}"), round(case.seconds, 6))
            if case.verdict != "passed":
                verdict = verdicts[case.verdict](_legal(case.message))
                verdict.text = _legal(case.text or case.message)
                made.result = [verdict]
            suite.add_testcase(made)
        report.add_testsuite(suite)
    report.update_statistics()
    root = ElementTree.fromstring(report.tostring())
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)


def _properties(manifest: Manifest | None) -> Iterator[tuple[str, str]]:
    """The bundle that was verified, and the versions that verified it."""
    yield "tokexport", __version__
    yield "python", platform.python_version()
    for package in ("onnxruntime", "onnxruntime-gpu", "torch"):
        try:
            yield package, version(package)
        except PackageNotFoundError:
            continue
    if manifest is None:
        return
    variant, *further = manifest.variants
    yield "source", f"{manifest.source.kind} {manifest.source.name}"
    yield "precision", variant.graphs["encoder"].precision
    for done in variant.compression:
        yield "method", f"{done.method} {flat(done.params)}".strip()
        yield "tokens", f"N={done.tokens_in} K={done.tokens_out} ratio={done.ratio}"
        yield "seam", f"{done.seam.kind} ({done.seam.tensor})"
        yield "size_bias", "on" if done.size_bias else "off"
    for one in further:
        for done in one.compression:
            yield "further variant", f"{one.name}: N={done.tokens_in} K={done.tokens_out} ratio={done.ratio}"
    for package, number in {"tokexport": manifest.tokexport, **manifest.versions}.items():
        yield f"exported with {package}", number
    for note in manifest.parity.get("notes", []):
        yield "note", note


def _legal(text: str) -> str:
    return _ILLEGAL.sub("\N{REPLACEMENT CHARACTER}", text)
