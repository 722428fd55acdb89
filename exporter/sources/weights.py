"""Weight files of a checkpoint folder, read by prefix, so that opening an encoder never loads the language model."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, BaseModel, Field, StringConstraints

from ...errors import RequestError, first_line
from ...files import open_regular, utf8_name
from ...runtimes.bundle.strict import one_part
from .configuration import read_json, typed
from .widened import Widened

if TYPE_CHECKING:
    import torch
    from torch import nn

_SINGLE = ("model.safetensors", "pytorch_model.bin")
_LFS = b"version https://git-lfs"


class _Index(BaseModel):
    """An index: key of a tensor -> the shard that holds it, a file beside the index."""

    weight_map: dict[str, Annotated[str, StringConstraints(max_length=255), AfterValidator(one_part)]] = Field(
        min_length=1
    )


class Weights:
    """The tensors of a checkpoint folder by key, opened but not read.

    Args:
        folder: holds model.safetensors or pytorch_model.bin, or shards with their index.

    Raises:
        RequestError: no weights, a shard that its index names is missing, or a file is truncated.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file_of = self._index()
        self.files = tuple(sorted({folder / name for name in self.file_of.values()}))

    def _index(self) -> dict[str, str]:
        for name in _SINGLE:
            index = self.folder / f"{name}.index.json"
            if index.is_file():
                file_of: dict[str, str] = typed(_Index, read_json(index), index).weight_map
                for shard in sorted(set(file_of.values())):
                    if not (self.folder / shard).is_file():
                        raise RequestError(
                            f"{index.name} names the shard {shard}, which is not there",
                            where=str(self.folder),
                            fix="Copy or download the folder again, with all of its *.safetensors files.",
                        )
                return file_of
            if (self.folder / name).is_file():
                with opened_tensors(self.folder / name) as tensors:
                    return dict.fromkeys(tensors.keys(), name)
        raise RequestError(
            "the folder has a config.json, but no weights",
            where=str(self.folder),
            fix="Expected model.safetensors, or shards with model.safetensors.index.json: download the whole folder.",
        )

    def has(self, prefix: str) -> bool:
        """Whether there are weights with a prefix; see `load`."""
        return any(_plain(key, prefix) for key in self.file_of)

    def load(self, module: nn.Module, prefix: str, *, optional: tuple[str, ...] = ()) -> None:
        """Load the parameters of `module` (see `without_weights`) as float32, and read no other weights.

        They are read one by one, and none needs to stay in memory: large ones are pages of the folder's own files, or
        of a scratch file where they are stored in half precision.

        Args:
            module: the keys of its state dict are looked up under `prefix`.
            prefix: name of the submodule in the checkpoint, such as ``vision_tower``; empty for the model itself. A
                leading ``model.``, and an inner ``vision_model.``, depend on the version of transformers that wrote the
                folder, and are ignored.
            optional: submodules of `module` that the exported graph does not use; they may be missing.

        Raises:
            RequestError: a weight is missing, or its shape is not that of config.json; no room for the scratch file.
        """
        import torch

        found = {plain: key for key in self.file_of if (plain := _plain(key, prefix))}
        begins = f"{prefix}." if prefix else ""
        own = module.state_dict()
        wanted = {_plain(f"{begins}{name}", prefix): name for name in own}
        state: dict[str, torch.Tensor] = {}
        widened = Widened()
        for file in self.files:
            keys = {plain: key for plain, key in found.items() if self.file_of[key] == file.name and plain in wanted}
            if not keys:
                continue
            with opened_tensors(file) as tensors:
                for plain, key in keys.items():
                    counted = not own[wanted[plain]].is_floating_point()
                    stored = stored_tensor(tensors, key, file, counted=counted)
                    if widened.takes(stored):
                        widened.add(wanted[plain], stored)
                    else:
                        state[wanted[plain]] = stored.to(torch.float32).contiguous()
        state |= widened.mapped()
        for name, empty in own.items():
            if name not in state:
                if name.startswith(optional):
                    # If the graph does use it after all, the proof fails.
                    state[name] = torch.full(empty.shape, torch.nan)
                    continue
                packed = _beside(_plain(f"{begins}{name}", prefix) or name, found)
                if packed:
                    raise quantised(f"{begins}{name} is stored as {', '.join(packed)}", self.folder)
                raise RequestError(
                    f"the checkpoint has no weight {begins}{name}",
                    where=str(self.folder),
                    fix="Download the folder again: it is incomplete, or config.json belongs to other weights.",
                )
            if state[name].shape != empty.shape:
                raise RequestError(
                    f"weight {begins}{name} is {list(state[name].shape)}, config.json says {list(empty.shape)}",
                    where=str(self.folder),
                    fix="Download the folder again: config.json belongs to other weights.",
                )
        module.load_state_dict(state, assign=True, strict=False)


def _beside(name: str, found: dict[str, str]) -> list[str]:
    """Keys that stand in the place of a missing ``x.weight``, such as ``x.qweight`` and ``x.scales``."""
    stem = name.removesuffix("weight")
    if stem == name or not stem.endswith("."):
        return []
    return sorted(key for plain, key in found.items() if plain.startswith(stem) and plain != f"{stem}bias")[:4]


def quantised(what: str, where: Path) -> RequestError:
    """Read without its scales such a weight would be another one."""
    return RequestError(
        f"{what}: quantised weights are not read",
        where=str(where),
        fix="Give the checkpoint that it was made of, in float32, float16 or bfloat16. `--llm-weights int8` or `int4` "
        "quantises the language graphs.",
    )


def _plain(key: str, prefix: str) -> str | None:
    """The part of a key after `prefix`, the same for every layout; None where the key has another prefix."""
    # With the prefix "model" the leading one is that.
    inner = key if key.startswith(f"{prefix}.") else key.removeprefix("model.")
    begins = f"{prefix}." if prefix else ""
    if not inner.startswith(begins):
        return None
    return inner.removeprefix(begins).removeprefix("vision_model.")


@contextlib.contextmanager
def without_weights() -> Iterator[None]:
    """Modules made inside have parameters on the meta device, to be assigned later; their buffers are real.

    transformers initialises modules with random numbers, which for a real encoder wastes seconds and a gigabyte.
    """
    from torch import nn

    original = nn.Module.register_parameter

    def register(self: nn.Module, name: str, param: nn.Parameter | None) -> None:
        if param is not None:
            param = nn.Parameter(param.to("meta"), requires_grad=False)
        original(self, name, param)

    nn.Module.register_parameter = register  # type: ignore[method-assign]
    try:
        yield
    finally:
        nn.Module.register_parameter = original  # type: ignore[method-assign]


def emptied(*modules: nn.Module) -> None:
    """Take the weights out of modules that are no longer used: graphs that were exported may hold them for good."""
    for module in modules:
        for weight in module.parameters():
            weight.data = weight.data.new_empty(0)


def let_go(source: Any, inner: str) -> None:
    """Take the weights out of the decoder and the reference that a source has made, and forget both.

    Args:
        source: with the cached properties ``decoder`` and ``reference``.
        inner: name of the decoder's module beside its head.
    """
    if decoder := source.__dict__.pop("decoder", None):
        emptied(getattr(decoder, inner), decoder.head)
    if reference := source.__dict__.pop("reference", None):
        # It shares the weights, and it is in cycles, which Python may look for minutes later.
        emptied(reference.model)


class _Pickled:
    """pytorch_model.bin with the interface of an open safetensors file."""

    def __init__(self, file: Path) -> None:
        import torch

        self._state = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
        if not isinstance(self._state, dict) or not all(isinstance(key, str) for key in self._state):
            raise ValueError(f"it holds a {type(self._state).__name__}, and no tensors by name")

    def keys(self) -> list[str]:
        return list(self._state)

    def get_tensor(self, key: str) -> torch.Tensor:
        return self._state[key]


def tensor_of(tensors: Any, key: str, file: Path) -> torch.Tensor:
    """A tensor of an open file, as float32; raises as `stored_tensor`."""
    return stored_tensor(tensors, key, file).float().contiguous()


def stored_tensor(tensors: Any, key: str, file: Path, *, counted: bool = False) -> torch.Tensor:
    """A tensor of an open file as it is stored; of whole numbers where it is `counted`, such as batches or positions.

    Raises:
        RequestError: it cannot be read, or is quantised.
    """
    import torch

    try:
        found: torch.Tensor = tensors.get_tensor(key)
        if not counted and found.dtype not in (torch.float32, torch.float16, torch.bfloat16, torch.float64):
            raise quantised(f"weight {key} is stored as {str(found.dtype).removeprefix('torch.')}", file)
        return found
    except RequestError:
        raise
    except Exception as error:
        # safetensors and torch raise errors of many kinds.
        raise RequestError(
            f"{file.name} does not hold the weight {key} that its index names: {first_line(error, 200)}",
            where=str(file),
            fix="Copy or download this file again.",
        ) from error


@contextlib.contextmanager
def opened_tensors(file: Path) -> Iterator[Any]:
    """A file of weights, with `keys` and `get_tensor`; RequestError where it cannot be read."""
    with open_regular(file) as stream:
        if stream.read(len(_LFS)) == _LFS:
            raise RequestError(
                f"{file.name} is a Git LFS pointer, not the weights", where=str(file), fix="Run `git lfs pull` there."
            )
    name = utf8_name(file)
    try:
        if file.suffix == ".safetensors":
            from safetensors import safe_open

            context: Any = safe_open(name, framework="pt")
        else:
            context = contextlib.nullcontext(_Pickled(file))
    except Exception as error:
        raise RequestError(
            f"{file.name} cannot be read, it is truncated or damaged: {first_line(error, 200)}",
            where=f"{file}, {file.stat().st_size} bytes",
            fix="Copy or download this file again.",
        ) from error
    with context as tensors:
        yield tensors
