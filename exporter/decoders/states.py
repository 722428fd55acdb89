"""What the layers of a hybrid decoder that do not attend carry from one token to the next, beside KV caches.

    conv     [B, C, n - 1], the last columns that a causal convolution of n columns has read
    linear   [B, H, d, e] float32, the matrix of each head of a linear attention, Gated DeltaNet

A prompt is padded behind its last id. A key of padding is never attended to, but such a layer reads whatever comes, so
what it carries is told apart here: columns are those up to the last id, and padding changes no matrix.

A merged token of size n changes a matrix as n equal tokens would, by one update (`counted`). A convolution reads it
once: it mixes neighbours, and of n equal tokens in a row its last output would be the token by itself.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.activations import ACT2FN

from ..zoo.decoding import MASKED
from .attention import Kept

# By the names that configurations have for their layers.
CARRYING = ("conv", "linear_attention")
# Tokens that are computed at once; a power of two.
CHUNK = 64
# Nearer to 0 a quotient of `counted` is taken for its limit; half precision can still tell it from 0.
_SMALL = 1e-5

# It advises kernels for GPUs where it runs a layer without: what is exported, and its reference, are plain on purpose.
logging.getLogger("transformers.integrations.hub_kernels").addFilter(
    lambda record: "falling back to its reference" not in record.getMessage()
)

Shapes = dict[int, dict[str, tuple[int, ...]]]


def attends(config: Any) -> list[bool]:
    """Whether each layer of a language model has keys and values, by its configuration."""
    kinds = getattr(config, "layer_types", None) or ["full_attention"] * config.num_hidden_layers
    return [kind not in CARRYING for kind in kinds]


def prepare(model: Any) -> Shapes:
    """Make the linear attentions of a language model such that graphs can hold them, in place.

    Returns:
        Of each layer that does not attend: kind of state -> its shape without B.
    """
    shapes: Shapes = {}
    for index, layer in enumerate(model.layers):
        if attends(model.config)[index]:
            continue
        if hasattr(layer, "linear_attn"):
            layer.linear_attn = DeltaNet(layer.linear_attn)
        convolution = next(part for part in layer.modules() if isinstance(part, nn.Conv1d))
        shapes[index] = {"conv": (convolution.in_channels, convolution.kernel_size[0] - 1)}
        if hasattr(layer, "linear_attn"):
            shapes[index]["linear"] = layer.linear_attn.shape
    return shapes


def masks(config: Any, attended: Tensor, real: Tensor | None, bias: Tensor | None = None) -> Any:
    """What a language model takes for its mask: one of attention, or by the kind of layer where there are several.

    Args:
        config: of the model.
        attended: [B or 1, 1, n, m], added to the logits of attention.
        real: [B, L] float32, 1 for ids and tokens and 0 for padding; None: there is none.
        bias: [B, L], log(size) of each; linear attention counts a token so often.
    """
    kinds = set(getattr(config, "layer_types", None) or ())
    if not kinds & set(CARRYING):
        return attended
    by_kind = {kind: real if kind in CARRYING else attended for kind in kinds}
    if "linear_attention" in kinds and real is not None and bias is not None:
        by_kind["linear_attention"] = real * bias.exp()
    return by_kind


class Carried(Kept):
    """The cache of a decoder some of whose layers carry states.

    Args:
        given: by name, ``<kind>_<layer>``, the states so far; without any, a sequence begins.
        last_index: [B] int64, the last column that is no padding; None: no column is.
    """

    def __init__(self, given: Mapping[str, Tensor] | None = None, last_index: Tensor | None = None) -> None:
        super().__init__()
        self.given, self.last_index = given or {}, last_index
        self.made: dict[str, Tensor] = {}

    def get_conv_state(self, *_: Any, **__: Any) -> None:
        """None: `update_conv_state` puts the columns so far in front, and nothing is written in place."""

    def update_conv_state(self, columns: Tensor, layer_idx: int, conv_kernel_size: int, **_: Any) -> Tensor:
        """[B, C, L] -> [B, C, n - 1 + L], with the columns so far, or zeros, in front."""
        name, carried = f"conv_{layer_idx}", conv_kernel_size - 1
        before = self.given.get(name)
        if before is None:
            before = columns.new_zeros(*columns.shape[:2], carried)
        whole = torch.cat([before, columns], -1)
        if self.last_index is None:
            self.made[name] = whole[..., whole.shape[-1] - carried :]
        else:
            places = self.last_index[:, None] + 1 + torch.arange(carried)
            self.made[name] = whole.gather(2, places[:, None].expand(-1, whole.shape[1], -1))
        return whole


class DeltaNet(nn.Module):
    """Gated DeltaNet with the weights of transformers' module.

    Of that one the graph would invert a matrix row by row, and padding behind a prompt would change the state.

    Args:
        own: of transformers.

    Attributes:
        shape: of the state, without B.
    """

    def __init__(self, own: Any) -> None:
        super().__init__()
        self.conv1d: nn.Conv1d = own.conv1d
        self.in_proj_qkv, self.in_proj_z, self.in_proj_b = own.in_proj_qkv, own.in_proj_z, own.in_proj_b
        self.in_proj_a, self.norm, self.out_proj = own.in_proj_a, own.norm, own.out_proj
        self.dt_bias, self.A_log = own.dt_bias, own.A_log
        self.layer_idx, self.act = own.layer_idx, ACT2FN[own.activation]
        self.widths = [own.key_dim, own.key_dim, own.value_dim]
        self.groups = own.num_v_heads // own.num_k_heads
        self.shape = (own.num_v_heads, own.head_k_dim, own.head_v_dim)

    def forward(
        self, hidden_states: Tensor, cache_params: Carried, attention_mask: Tensor | None = None, **_: Any
    ) -> Tensor:
        """[B, L, D] -> [B, L, D]; `attention_mask` [B, L] is how often each token counts, 0 for padding."""
        channels, kernel = self.conv1d.in_channels, self.conv1d.kernel_size[0]
        columns = self.in_proj_qkv(hidden_states).transpose(1, 2)
        columns = cache_params.update_conv_state(columns, self.layer_idx, conv_kernel_size=kernel)
        mixed = self.act(F.conv1d(columns, self.conv1d.weight, self.conv1d.bias, groups=channels)).transpose(1, 2)
        _, key_dim, value_dim = self.shape
        query, key, value = mixed.split(self.widths, -1)
        query, key = (normalised(self._heads(x, key_dim)) for x in (query, key))
        value = value.unflatten(-1, (-1, value_dim)).transpose(1, 2)
        beta = self.in_proj_b(hidden_states).transpose(1, 2)
        decay = (-self.A_log.exp() * F.softplus(self.in_proj_a(hidden_states) + self.dt_bias)).transpose(1, 2)
        if attention_mask is None:
            beta = beta.sigmoid()
        else:
            value, decay, beta = counted(value, decay, beta, attention_mask[:, None])
        update = (query * key_dim**-0.5, key, value, decay, beta)
        name = f"linear_{self.layer_idx}"
        state = cache_params.given.get(name)
        out, cache_params.made[name] = in_chunks(*update) if state is None else one_step(*update, state)
        out = out.transpose(1, 2)
        gate = self.in_proj_z(hidden_states).unflatten(-1, (-1, value_dim))
        return self.out_proj(self.norm(out, gate).flatten(2))

    def _heads(self, x: Tensor, width: int) -> Tensor:
        """[B, L, G width] -> [B, H, L, width]; each head of queries and keys serves as many of values."""
        x = x.unflatten(-1, (-1, 1, width))
        return x.expand(-1, -1, -1, self.groups, -1).flatten(2, 3).transpose(1, 2)


def normalised(x: Tensor) -> Tensor:
    """Of norm 1, by channels."""
    return x * torch.rsqrt((x * x).sum(-1, keepdim=True) + 1e-6)


def counted(value: Tensor, decay: Tensor, logit: Tensor, times: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The update of `one_step` that is `times` updates with a key of norm 1, one after the other.

    Of S <- e^g S (I - b k k^T) + b v k^T, n times, the first factor is e^(n g) (I - (1 - (1 - b)^n) k k^T), and the
    second b (1 - x^n) / (1 - x) v k^T with x = e^g (1 - b): a geometric series. For n = 1 nothing is changed, to the
    bit, and for n = 0 nothing is written or forgotten.

    Args:
        value: v [B, H, L, e].
        decay: g [B, H, L].
        logit: likewise, b before its sigmoid.
        times: n [B, 1, L], not only whole numbers.

    Returns:
        v, g and b of the update.
    """
    # log(1 - b), exact also where b is near 0 or 1.
    kept = -F.softplus(logit)
    often, written = _quotient(kept, times), _quotient(kept + decay, times)
    return value * (written / often.clamp(min=_SMALL))[..., None], decay * times, logit.sigmoid() * often


def _quotient(x: Tensor, times: Tensor) -> Tensor:
    """(1 - e^(n x)) / (1 - e^x) for x below 0, by e^x - 1 = 2 t / (1 - t) with t = tanh(x / 2), exact near 0."""
    half = (x * 0.5).clamp(max=-_SMALL)
    whole, one = (half * times).tanh(), half.tanh()
    return whole / (1 - whole) / (one / (1 - one))


def one_step(
    query: Tensor, key: Tensor, value: Tensor, decay: Tensor, beta: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """S <- e^g S, S <- S + k b (v - S^T k)^T, then S^T q; shapes as `in_chunks`, with L = 1."""
    state = state * decay.exp()[..., None]
    state = state + key.transpose(2, 3) @ ((value - key @ state) * beta[..., None])
    return query @ state, state


def in_chunks(
    query: Tensor, key: Tensor, value: Tensor, decay: Tensor, beta: Tensor, state: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """`one_step` for each of L tokens, `CHUNK` at once.

    What the tokens of a chunk write depends on each other by a triangular matrix, whose inverse is made of those of its
    halves: six products whatever the values are, and as exact as one row after the other.

    Args:
        query: [B, H, L, d].
        key: likewise, of norm 1.
        value: [B, H, L, e].
        decay: [B, H, L], g, at most 0.
        beta: likewise, b.
        state: S of what lies before; None: 0.

    Returns:
        [B, H, L, e], and S [B, H, d, e].
    """
    length, missing = query.shape[2], -query.shape[2] % CHUNK
    query, key, value = (F.pad(x, (0, 0, 0, missing)).unflatten(2, (-1, CHUNK)) for x in (query, key, value))
    decay, beta = (F.pad(x, (0, missing)).unflatten(2, (-1, CHUNK)) for x in (decay, beta))
    lower = torch.ones(CHUNK, CHUNK).tril()
    # The sum of all decays up to a token, by a product: not all runtimes have a running sum.
    total = decay @ lower.T
    between = torch.where(lower > 0, total[..., None] - total[..., None, :], MASKED).exp()
    grown, written = total.exp()[..., None], key * beta[..., None]
    inverse = _inverse(written @ key.transpose(3, 4) * between)
    values, reads = inverse @ (value * beta[..., None]), inverse @ (written * grown)
    seen, query = query @ key.transpose(3, 4) * between, query * grown
    key = key * (total[..., -1:] - total).exp()[..., None]
    if state is None:
        state = key.new_zeros(*key.shape[:2], key.shape[4], value.shape[4])
    said = []
    for chunk in range(query.shape[2]):
        new = values[:, :, chunk] - reads[:, :, chunk] @ state
        said.append(query[:, :, chunk] @ state + seen[:, :, chunk] @ new)
        state = state * grown[:, :, chunk, -1:] + key[:, :, chunk].transpose(2, 3) @ new
    return torch.cat(said, 2)[:, :, :length], state


def _inverse(system: Tensor) -> Tensor:
    """Of I + A, for A the part of `system` [.., CHUNK, CHUNK] below the diagonal."""
    place = torch.arange(CHUNK)
    inverse = torch.eye(CHUNK)
    size = 1
    while size < CHUNK:
        block = place // size
        # Below the diagonal, in each pair of blocks of this size.
        corner = (block[:, None] == block + 1) & (block % 2 == 0)
        inverse = inverse - inverse @ (system * corner) @ inverse
        size *= 2
    return inverse
