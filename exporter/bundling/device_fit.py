"""Fits an export to a device: chooses the precision where none was asked for, and refuses what cannot run there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, cast

from ...errors import GraphError, RequestError

if TYPE_CHECKING:
    import onnx_ir as ir

    from ...devices.profiles import Target
    from ...devices.rules import Violation
    from ...runtimes.bundle.manifest import DeviceRecord, Form, Precision, Role
    from ..sources.source import Source

RUNTIME: Literal["tensorrt"] = "tensorrt"
# Above this share of the memory a note warns: the system, the builder and its workspace need memory too.
_TIGHT = 0.5


@dataclass(frozen=True)
class Choice:
    """What an export is fitted to.

    Attributes:
        target: the device and its TensorRT; None where none was named.
        precision: of the graphs.
        notes: on how it was chosen.
    """

    target: Target | None
    precision: Precision
    notes: list[str]


def choose(device: str | None, asked: Precision | None) -> Choice:
    """`target` and `precision` for what ``--device`` and ``--precision`` said.

    Raises:
        RequestError: as they do.
    """
    goal = target(device)
    return Choice(goal, *precision(goal, asked))


def target(device: str | None) -> Target | None:
    """The device that ``--device NAME[@TENSORRT]`` names; None without one.

    Raises:
        RequestError: unknown; the nearest are listed.
    """
    if device is None:
        return None
    from ...devices import profiles

    return profiles.target(device)


def precision(target: Target | None, asked: Precision | None) -> tuple[Precision, list[str]]:
    """The precision to export in, and notes on the choice.

    Args:
        target: the device, None where none was named.
        asked: what ``--precision`` said, None where it said nothing: fp32, or what is recommended for the device.

    Raises:
        RequestError: the device does not compute in it.
    """
    if target is None:
        return asked or "fp32", []
    profile = target.profile
    if asked is None:
        return profile.precision, [
            f"for {profile.name}: {profile.precision}, because no --precision was given: {profile.precision_why}"
        ]
    if asked != "fp32" and profile.value(asked) is not True:
        raise RequestError(
            f"{profile.title} does not compute in {asked}",
            where=f"device {profile.name}, compute capability {profile.value('compute_capability')}",
            fix=f"Use --precision {profile.precision}.",
        )
    if asked != profile.precision:
        return asked, [f"for {profile.name}: {asked} as asked; {profile.precision} is recommended there"]
    return asked, []


def of_half_file(choice: Choice, source: Source, asked: Precision | None, *, verify: bool) -> Choice:
    """The choice for a source whose file is in half precision already: its types stay as they are.

    Args:
        choice: made without looking at the source.
        source: what is exported.
        asked: what ``--precision`` said, None where it said nothing.
        verify: whether the export is proved.

    Raises:
        RequestError: another precision was asked for, or a file in bfloat16 is to be proved on the CPU.
    """
    if not source.half:
        return choice
    if asked not in (None, source.half):
        raise RequestError(
            f"the file is {source.half} already, and {asked} was asked for",
            where=source.name,
            fix=f"Leave --precision out, or export the file in fp32 for --precision {asked}.",
        )
    if source.half == "bf16" and verify:
        raise RequestError(
            "the file is bf16, which ONNX Runtime's CPU cannot run, so nothing can be proved here",
            where=source.name,
            fix="Add --no-verify, or export the file in fp32 for --precision bf16.",
        )
    notes = [f"the file is {source.half} already: its types stay as they are"]
    return replace(choice, precision=cast("Precision", source.half), notes=notes)


def fit(target: Target | None, models: Mapping[Role, ir.Model]) -> tuple[DeviceRecord | None, list[str]]:
    """The forms of each graph that the device can run, and notes for the user.

    Args:
        target: the device and its TensorRT; None where none was named.
        models: by role, in portable form.

    Returns:
        (the record for the manifest, notes).

    Raises:
        GraphError: no form of a graph can run there, with the node and the rule; or it does not fit the memory.
    """
    from ...runtimes.bundle.manifest import DeviceRecord

    if target is None:
        return None, []
    forms: dict[Role, list[Form]] = {}
    notes = []
    for role, model in models.items():
        broken = _broken(model, target.stack.tensorrt)
        forms[role] = [form for form, found in broken.items() if not found]
        refused = {form: found for form, found in broken.items() if found}
        if not forms[role]:
            raise _refused(role, refused, target)
        notes += [
            f"for {target.profile.name}: the {form} form of {role} is not for it: {_text(found[0])}"
            for form, found in refused.items()
        ]
    needed = _memory(target, models, notes)
    record = DeviceRecord(
        name=target.profile.name,
        runtime=RUNTIME,
        version=target.stack.tensorrt,
        forms=forms,
        memory=needed,
    )
    return record, notes


def refusal(target: Target, model: ir.Model) -> GraphError | None:
    """Why no form of an encoder can run on the device, by its rules alone; None where one can."""
    broken = _broken(model, target.stack.tensorrt)
    return _refused("encoder", broken, target) if all(broken.values()) else None


def _refused(role: Role, refused: Mapping[Form, list[Violation]], target: Target) -> GraphError:
    return GraphError(_refusal(role, refused, target), where=f"graph {role}", fix=_way_out(refused, target))


def _broken(model: ir.Model, version: str) -> dict[Form, list[Violation]]:
    """Form -> what a version of TensorRT cannot run of it, for each form that the model has."""
    from ...devices.rules import violations
    from ...graph_passes.forms import compressor_nodes, to_plugin, without_plugin

    found: dict[Form, list[Violation]] = {"portable": violations(model, RUNTIME, version)}
    if not any(compressor_nodes(model)):
        # Without a compressor both forms are the same file.
        found["plugin"] = found["portable"]
    elif not without_plugin(model):
        found["plugin"] = violations(to_plugin(model), RUNTIME, version)
    return found


def _refusal(role: str, refused: Mapping[Form, list[Violation]], target: Target) -> str:
    shared = [one for one in refused["portable"] if all(one in found for found in refused.values())]
    reasons = [_text(one) for one in shared]
    for form, found in refused.items():
        reasons += [f"{form} form: {_text(one)}" for one in found if one not in shared][:1]
    more = f"; and {len(reasons) - 4} more" if len(reasons) > 4 else ""
    return f"{target} cannot run the {role}: {'; '.join(reasons[:4])}{more}"


def _text(one: Violation) -> str:
    return f"{one.op}{f' {one.node!r}' if one.node else ''}: {one.why}"


def _way_out(refused: Mapping[Form, list[Violation]], target: Target) -> str:
    name, stacks = target.profile.name, target.profile.stacks
    later = [stack for stack in stacks if _key(stack.tensorrt) > _key(target.stack.tensorrt)]
    ways = ["change that node where the model is made"] if any(one.node for one in refused["portable"]) else []
    ways += (
        [f"choose a later software release for it, --device {name}@{later[0].tensorrt} ({later[0].name})"]
        if later
        else []
    )
    way = ", or ".join([*ways, "leave --device out: ONNX Runtime runs it as it is"])
    return f"{way[0].upper()}{way[1:]}."


def _key(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


def _memory(target: Target, models: Mapping[Role, ir.Model], notes: list[str]) -> int:
    """Bytes that all graphs need at least, loaded together: engines share no weights."""
    from ...devices.memory import needs

    each = {role: needs(model) for role, model in models.items()}
    total = sum(one.total for one in each.values())
    there = target.profile.memory_bytes()
    parts = ", ".join(f"{role} {_size(one.total)}" for role, one in each.items())
    kind = "shared with the CPU and the system" if target.profile.value("memory_kind") == "shared" else "its own"
    if total > there:
        raise GraphError(
            f"{target.profile.title} has {_size(there)} of memory ({kind}), and the graphs need at least "
            f"{_size(total)}: {parts}",
            fix="Use --precision fp16, --parts encoder, or a smaller model.",
        )
    unknown = sum(one.unknown for one in each.values())
    if unknown:
        notes.append(f"for {target.profile.name}: {unknown} tensors have no static shape and are not in its memory")
    if total > _TIGHT * there:
        notes.append(
            f"for {target.profile.name}: the graphs need at least {_size(total)} of {_size(there)} ({kind}): "
            "building the engines there may not fit"
        )
    return total


def _size(number: int) -> str:
    return f"{number / 2**30:.2f} GiB" if number >= 2**28 else f"{number / 2**20:.1f} MiB"
