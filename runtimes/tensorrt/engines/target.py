"""What an engine is built for: a device profile, ``sm<NN>``, or the GPU of this machine; and its workspace limit."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ....devices import profiles
from ....errors import MissingError, RequestError
from .. import cuda as tensorrt_cuda
from ..api import Kind, Settings, title
from ..rtx import SMS

if TYPE_CHECKING:
    from ...bundle.manifest import DeviceRecord

# Share of the memory that one tactic may use. Where CPU and GPU share it, the system, the weights and the builder's
# copies of them are in it too.
_WORKSPACE = {"shared": 1 / 4, "own": 1 / 2}


@dataclass(frozen=True)
class EngineTarget:
    """What to build for.

    Attributes:
        name: the folder of its engines.
        settings: of its builds. The workspace follows from the memory in the device profile.
        why: how it was chosen.
    """

    name: str
    settings: Settings
    why: str

    @property
    def compute_capability(self) -> str:
        """Such as ``8.7``."""
        return self.settings.compute_capability


def choose(asked: str | None, recorded: DeviceRecord | None, kind: Kind, version: str) -> EngineTarget:
    """The target of a build, checked to be one that this runtime can build for on this machine.

    Args:
        asked: what ``--device`` said: NAME, NAME@TENSORRT or sm<NN>.
        recorded: the device that the bundle was exported for.
        kind: of TensorRT.
        version: its version.

    Raises:
        RequestError: an unknown device, another TensorRT than the installed one, or one that this cannot build for.
        MissingError: TensorRT needs the GPU it builds for, and it is not here; or nothing says what to build for.
    """
    target = _named(asked, recorded, kind, version)
    if kind == "tensorrt-rtx":
        if target.compute_capability.replace(".", "") not in SMS:
            known = ", ".join(f"{sm[:-1]}.{sm[-1]}" for sm in SMS)
            raise RequestError(
                f"TensorRT-RTX does not build for {target.name}, compute capability {target.compute_capability}",
                fix=f"It knows {known}. For a Jetson run `tokexport build` on it, with the TensorRT of its JetPack.",
            )
        return target
    here = tensorrt_cuda.compute_capability()
    if here != target.compute_capability:
        raise RequestError(
            f"TensorRT builds for the GPU it runs on, of compute capability {here}, and {target.name} has "
            f"{target.compute_capability}",
            fix=f"Run the same command on {target.name}.",
        )
    return target


def _named(asked: str | None, recorded: DeviceRecord | None, kind: Kind, version: str) -> EngineTarget:
    if asked is None and recorded is not None:
        profile = profiles.profile(recorded.name)
        return _of(profile, "the bundle was exported for it")
    if asked is None:
        here = tensorrt_cuda.gpu_here()
        if here is None:
            raise MissingError(
                "there is no GPU here that could be seen, and no --device says what to build for",
                fix="Add for example --device rtx-4090 or --device sm86. Seeing a GPU takes: pip install cuda-bindings",
            )
        return EngineTarget(f"sm{here.replace('.', '')}", Settings(None, here), "the GPU of this machine")
    if found := re.fullmatch(r"sm_?(\d+)(\d)", asked.lower()):
        return EngineTarget(f"sm{found[1]}{found[2]}", Settings(None, f"{found[1]}.{found[2]}"), "as asked")
    target = profiles.target(asked)
    if "@" in asked and (kind != "tensorrt" or not f"{version}.".startswith(f"{target.stack.tensorrt}.")):
        raise RequestError(
            f"--device {asked} names TensorRT {target.stack.tensorrt}, and {title(kind)} {version} would build",
            fix=f"Leave @{asked.partition('@')[2]} out, or run it where that TensorRT is.",
        )
    return _of(target.profile, "as asked")


def _of(profile: profiles.Profile, why: str) -> EngineTarget:
    workspace = int(profile.memory_bytes() * _WORKSPACE[profile.value("memory_kind")])
    return EngineTarget(profile.name, Settings(workspace, profile.value("compute_capability")), why)
