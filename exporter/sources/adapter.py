"""A LoRA adapter beside the weights of a folder, added to them: W + scale B A, as peft merges it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, Field, FiniteFloat

from ...errors import RequestError
from .configuration import read_json, typed
from .weights import opened_tensors, tensor_of

if TYPE_CHECKING:
    from torch import nn

    from .checkpoint import Checkpoint

_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_DOWN, _UP = ".lora_A.weight", ".lora_B.weight"
_BEGINS = "base_model.model."

# What changes more than W + scale B A -> the values at which it changes nothing.
_PLAIN: dict[str, tuple[Any, ...]] = {
    "bias": ("none",),
    "use_dora": (False,),
    "fan_in_fan_out": (False,),
    "lora_bias": (False,),
    "rank_pattern": ({},),
    "alpha_pattern": ({},),
    "modules_to_save": ([],),
    "trainable_token_indices": ([], {}),
    "target_parameters": ([],),
    "alora_invocation_tokens": ([],),
    "use_qalora": (False,),
    "use_bdlora": (False,),
    "layer_replication": ([],),
    "arrow_config": (),
    "kasa_config": (),
    "megatron_config": (),
    "monteclora_config": (),
    "velora_config": (),
}


class _Adapter(BaseModel):
    """What is read of adapter_config.json."""

    peft_type: str
    r: Annotated[int, Field(ge=1, le=1 << 16)] = 8
    lora_alpha: FiniteFloat = 8.0
    use_rslora: bool = False


def files(checkpoint: Checkpoint) -> tuple[Path, ...]:
    """The weights of the folder's adapter; empty without one.

    Raises:
        RequestError: its configuration is there, and not its weights.
    """
    config, weights = checkpoint.folder / _CONFIG, checkpoint.folder / _WEIGHTS
    if config.is_file() and not weights.is_file():
        raise RequestError(
            f"the folder has {_CONFIG}, and no {_WEIGHTS}",
            where=str(checkpoint.folder),
            fix="Download the whole folder again.",
        )
    return (weights,) if config.is_file() else ()


def merge(checkpoint: Checkpoint, model: nn.Module, prefixes: tuple[str, ...]) -> None:
    """Add the folder's adapter to the weights of a language model, in place.

    Args:
        checkpoint: a folder with an adapter.
        model: its language model, float32.
        prefixes: what may stand before the names of its modules in the folder.

    Raises:
        RequestError: an adapter that is no plain LoRA, that changes anything but matrices of this model, or whose
            matrices do not fit it.
    """
    import torch

    scale = scale_of(checkpoint)
    (weights,) = files(checkpoint)
    with opened_tensors(weights) as tensors, torch.no_grad():
        keys = set(tensors.keys())
        for key in sorted(keys):
            name, up = key.removesuffix(_DOWN), key.removesuffix(_DOWN) + _UP
            if key.endswith(_UP) and key.removesuffix(_UP) + _DOWN in keys:
                continue
            linear = _linear(model, name, prefixes)
            if not key.endswith(_DOWN) or up not in keys or linear is None:
                raise RequestError(
                    f"the adapter has {key}, and only pairs of lora_A and lora_B of matrices of the language model can "
                    "be added to its weights",
                    where=str(weights),
                    fix="Merge the adapter with peft (merge_and_unload), save the folder, and set has_lora_adapter of "
                    "config.json to false.",
                )
            down, up = tensor_of(tensors, key, weights), tensor_of(tensors, up, weights)
            added = up.shape[:1] + down.shape[1:] if up.ndim == down.ndim == 2 else ()
            if added != linear.weight.shape or up.shape[1] != down.shape[0]:
                raise RequestError(
                    f"{name} of the adapter is {list(up.shape)} times {list(down.shape)}, and the weight is "
                    f"{list(linear.weight.shape)}",
                    where=str(weights),
                    fix="The adapter belongs to another model: download the folder again.",
                )
            linear.weight.add_(scale * (up @ down))


def scale_of(checkpoint: Checkpoint) -> float:
    """What B A is multiplied with; RequestError where the folder's adapter is no plain LoRA."""
    path = checkpoint.folder / _CONFIG
    said = read_json(path)
    config: _Adapter = typed(_Adapter, said, path)
    unlike = [name for name, plain in _PLAIN.items() if said.get(name) is not None and said[name] not in plain]
    if config.peft_type != "LORA" or unlike:
        what = f"peft_type {config.peft_type}" if config.peft_type != "LORA" else ", ".join(unlike)
        raise RequestError(
            f"{path.name} has {what}, and only plain LoRA is added to the weights",
            where=str(path),
            fix="Merge the adapter with peft (merge_and_unload), save the folder, and set has_lora_adapter of "
            "config.json to false.",
        )
    return config.lora_alpha / (math.sqrt(config.r) if config.use_rslora else config.r)


def _linear(model: nn.Module, name: str, prefixes: tuple[str, ...]) -> nn.Linear | None:
    """The matrix of that name; None where the model has none."""
    from torch import nn

    plain = name.removeprefix(_BEGINS).removeprefix("model.")
    plain = next((plain.removeprefix(f"{one}.") for one in prefixes if plain.startswith(f"{one}.")), "")
    found = dict(model.named_modules()).get(plain)
    return found if isinstance(found, nn.Linear) else None
