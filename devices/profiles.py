"""What is known about each device and the source of every figure: one TOML file per device, named after it.

A figure without a source is refused. A source records how it was read: ``document`` (the page itself), ``quoted`` (from
a public transcription that names the document, which itself was not opened), ``reported`` (somebody's measurement),
``unverified`` (no document was found; the figure is from memory).

A profile ``like`` another takes its precision, its stacks, and the figures that follow from the architecture (`ALIKE`)
from there, each with its source, where it has none of its own.
"""

from __future__ import annotations

import datetime
import functools
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from .. import entry_points
from ..errors import RequestError, invalid, nearest
from ..files import parse_toml, read_bounded

Name = Literal[
    "compute_capability",
    "memory",
    "memory_visible",
    "memory_kind",
    "memory_bandwidth",
    "cuda_cores",
    "tensor_cores",
    "sms",
    "gpu_clock",
    "int8_tops",
    "fp16_tflops",
    "fp8_tflops",
    "fp4_tflops",
    "dla",
    "power",
    "fp16",
    "bf16",
    "int8",
    "fp8",
    "fp4",
]
REQUIRED = ("compute_capability", "memory", "memory_kind", "memory_bandwidth", "cuda_cores", "dla", "fp16", "bf16")
ALIKE: tuple[Name, ...] = ("compute_capability", "memory_kind", "fp16", "bf16", "int8", "fp8", "fp4")
_NOT_PROFILES = {"rules"}
_FOLDER = Path(__file__).parent


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Source(_Strict):
    """Where figures were read.

    Attributes:
        document: title, number and revision.
        url: of the document, or of the page that quotes it; empty where `read` is ``unverified``.
        seen: date on which it was read.
        read: how; see the module docstring.
    """

    document: str = Field(min_length=8)
    url: str = Field(pattern="^(https://.+)?$")
    seen: datetime.date
    read: Literal["document", "quoted", "reported", "unverified"]

    @model_validator(mode="after")
    def _has_url(self) -> Source:
        if not self.url and self.read != "unverified":
            raise ValueError(f"source {self.document!r} has no url")
        return self


class Figure(_Strict):
    """One figure: its value, unit, the key of its source, and the conditions under which it holds."""

    value: bool | int | float | str | tuple[str, ...]
    unit: str = ""
    source: str
    note: str = ""


class Stack(_Strict):
    """Software that runs on the device: a JetPack, or a TensorRT release if there is no JetPack."""

    name: str
    tensorrt: str = Field(pattern=r"^\d+\.\d+(\.\d+)*$")
    cuda: str = ""
    source: str
    note: str = ""


class Profile(_Strict):
    """A device.

    Attributes:
        name: as typed after ``--device``.
        title: the vendor's name for it.
        usual: version of TensorRT that a graph is checked against by default.
        precision: recommended by default.
        precision_why: one sentence.
        figures: by name; units are in the figures. Memory is in GiB, and `memory_visible` the part programs can see.
        stacks: oldest first.
        sources: by the key that figures and stacks name.
    """

    name: str
    title: str
    usual: str
    precision: Literal["fp32", "fp16", "bf16"]
    precision_why: str
    figures: dict[Name, Figure]
    stacks: tuple[Stack, ...] = Field(min_length=1)
    sources: dict[str, Source]

    @model_validator(mode="after")
    def _consistent(self) -> Profile:
        missing = [name for name in REQUIRED if name not in self.figures]
        if missing:
            raise ValueError(f"figure {missing[0]} is missing")
        used: list[tuple[str, str]] = [(name, figure.source) for name, figure in self.figures.items()]
        used += [(stack.name, stack.source) for stack in self.stacks]
        for name, source in used:
            if source not in self.sources:
                raise ValueError(f"{name} names the source {source!r}, which is not defined")
        unused = self.sources.keys() - {source for _, source in used}
        if unused:
            raise ValueError(f"source {min(unused)!r} is not used")
        if self.usual not in [stack.tensorrt for stack in self.stacks]:
            raise ValueError(f"the usual TensorRT {self.usual} is in no stack")
        return self

    def value(self, name: Name) -> Any:
        """A figure's value, None where it is not known."""
        figure = self.figures.get(name)
        return None if figure is None else figure.value

    def memory_bytes(self) -> int:
        """Memory in bytes: the part programs can see, if that is known."""
        return int((self.value("memory_visible") or self.value("memory")) * 2**30)


@dataclass(frozen=True)
class Target:
    """A device and its software: what ``--device NAME[@TENSORRT]`` selects."""

    profile: Profile
    stack: Stack

    def __str__(self) -> str:
        return f"{self.profile.name} (TensorRT {self.stack.tensorrt}, {self.stack.name})"


@functools.cache
def names() -> tuple[str, ...]:
    """The devices, by name: those that come with tokexport, and those that other packages add."""
    return tuple(sorted([*_built_in(), *_added().found]))


def skipped() -> tuple[entry_points.Skipped, ...]:
    """The devices of other packages that cannot be used."""
    return _added().skipped


def profile(name: str) -> Profile:
    """A device's profile.

    Args:
        name: of a device; a file ``PATH.toml`` of your own; or a compute capability as ``sm_86``, which stands for the
            known device of that kind with the least memory.

    Raises:
        RequestError: unknown name; the nearest names are listed. Also what `read` raises.
    """
    if name in _built_in():
        return _read_once(_FOLDER / f"{name}.toml")
    if name in _added().found:
        return _added().found[name]
    if found := re.fullmatch(r"sm_?(\d+)(\d)", name.lower()):
        return _of_capability(f"{found[1]}.{found[2]}")
    if Path(name).suffix == ".toml":
        return read(Path(name).expanduser())
    fix = entry_points.because(_added(), name) + nearest(name, names(), kind="devices")
    raise RequestError(
        f"unknown device {name!r}",
        fix=f"{fix} A profile of your own is --device ./{name}.toml; any GPU of a compute capability, --device sm_86.",
    )


@functools.cache
def _read_once(path: Path) -> Profile:
    return read(path)


def known() -> tuple[list[Profile], list[str]]:
    """The profiles that can be read, by name, and why others cannot."""
    found, wrong = [], []
    for name in names():
        try:
            found.append(profile(name))
        except RequestError as error:
            wrong.append(str(error))
    return found, wrong


def read(path: Path) -> Profile:
    """The profile in a file.

    Raises:
        RequestError: no such file, no TOML, a figure without a source, an unknown name, or a value of the wrong kind.
    """
    try:
        return Profile.model_validate({"name": path.stem, **_filled(_toml(path))})
    except ValidationError as error:
        raise RequestError(
            f"the profile is {invalid(error)}",
            where=path.name,
            fix=f"Figures are {', '.join(get_args(Name))}; each needs a value and a source.",
        ) from None


def _toml(path: Path) -> dict[str, Any]:
    try:
        return parse_toml(read_bounded(path))
    except OSError as error:
        raise RequestError(
            f"the profile cannot be read: {error.strerror}",
            where=str(path),
            fix="`tokexport devices` lists those that need no file.",
        ) from None
    except ValueError as error:
        raise RequestError(f"the profile is no TOML: {error}", where=str(path), fix="Mend that line.") from None


def _filled(data: dict[str, Any]) -> dict[str, Any]:
    """A profile with what it takes from the one that it is like, if it is like one."""
    like = data.pop("like", None)
    if like is None:
        return data
    if like not in _built_in():
        fix = nearest(str(like), _built_in(), kind="built-in devices")
        raise RequestError(f"the profile is like {like!r}, which is no built-in device", fix=fix)
    other = _filled(_toml(_FOLDER / f"{like}.toml"))
    own = data.get("figures", {})
    figures = {**{name: other["figures"][name] for name in ALIKE if name not in own}, **own}
    taken = {key: other[key] for key in ("usual", "precision", "precision_why", "stacks") if key not in data}
    used = {one.get("source") for one in [*figures.values(), *taken.get("stacks", ()), *data.get("stacks", ())]}
    sources = {key: source for key, source in other["sources"].items() if key in used}
    return {**data, **taken, "figures": figures, "sources": {**sources, **data.get("sources", {})}}


def _of_capability(capability: str) -> Profile:
    """Any GPU of a compute capability: the known one with the least memory stands for it."""
    found, _ = known()
    alike = [one for one in found if one.value("compute_capability") == capability]
    if not alike:
        there = ", ".join(sorted({"sm_" + one.value("compute_capability").replace(".", "") for one in found}))
        raise RequestError(f"no known device has compute capability {capability}", fix=f"Known: {there}.")
    least = min(alike, key=lambda one: one.memory_bytes())
    title = f"a GPU of compute capability {capability}, taken for {least.title}"
    return least.model_copy(update={"name": f"sm{capability.replace('.', '')}", "title": title})


def target(text: str) -> Target:
    """What ``NAME`` or ``NAME@TENSORRT`` means, such as ``orin-nano-8gb`` or ``orin-nano-8gb@8.5``; see `profile`.

    Raises:
        RequestError: an unknown device, or a version of TensorRT that none of its stacks has.
    """
    name, _, version = text.partition("@")
    found = profile(name)
    wanted = version or found.usual
    # The newest stack with that version: 10.3 came with two JetPacks.
    for stack in reversed(found.stacks):
        if stack.tensorrt == wanted or stack.tensorrt.startswith(f"{wanted}."):
            return Target(found, stack)
    known = ", ".join(f"{name}@{stack.tensorrt} ({stack.name})" for stack in found.stacks)
    raise RequestError(f"{found.title} has no TensorRT {version!r} in its profile", fix=f"Known: {known}.")


@functools.cache
def _built_in() -> frozenset[str]:
    return frozenset(path.stem for path in _FOLDER.glob("*.toml")) - _NOT_PROFILES


@functools.cache
def _added() -> entry_points.Added[Profile]:
    """What the group ``tokexport.devices`` adds: an entry is a name, and the package in which NAME.toml lies."""
    accept = functools.partial(entry_points.from_file, "profile", read)
    return entry_points.read("tokexport.devices", built_in=_built_in(), accept=accept)
