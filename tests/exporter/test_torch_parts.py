"""Hooks and the attention tap, on a two-block toy whose right answers are computed by hand."""

from dataclasses import replace

import pytest
import torch
from tokexport.errors import GraphError
from tokexport.exporter.proof import torch_parts
from tokexport.exporter.proof.torch_parts import Injected
from tokexport.graph_passes.seams.seam import Seam, Signal
from torch import nn
from torch.nn import functional as F

N, D = 5, 4


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q, self.k = nn.Linear(D, D), nn.Linear(D, D)

    def forward(self, x):
        return x + F.scaled_dot_product_attention(self.q(x)[:, None], self.k(x)[:, None], x[:, None])[:, 0]


class Toy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([Block(), Block()])
        self.projector = nn.Linear(D, 3)

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return self.projector(x[:, 1:])


@pytest.fixture
def toy():
    torch.manual_seed(0)
    return Toy().eval()


@pytest.fixture
def x():
    return torch.randn(2, 1 + N, D, generator=torch.Generator().manual_seed(1))


def seam(module: str, side: str = "output", prefix: int = 1) -> Seam:
    return Seam("encoder_output", "t", N, D, prefix=prefix, module=module, side=side)


def test_head_reads_the_output_of_a_module(toy, x):
    assert torch.equal(torch_parts.head(toy, {"x": x}, seam("layers.0"), ()).tokens, toy.layers[0](x))


def test_head_reads_the_input_of_a_module(toy, x):
    found = torch_parts.head(toy, {"x": x}, seam("projector", "input", 0), ()).tokens
    assert torch.equal(found, toy.layers[1](toy.layers[0](x))[:, 1:])


def test_cls_attention_is_that_of_the_last_layer_before_the_seam(toy, x):
    found = torch_parts.head(toy, {"x": x}, seam("layers.0"), ("cls_attention",)).signals["cls_attention"]
    block = toy.layers[0]
    weights = (block.q(x) @ block.k(x).transpose(1, 2) / D**0.5).softmax(-1)
    assert torch.allclose(found, weights[:, 0, 1:], atol=1e-6)


def test_received_attention_is_the_mean_of_all_queries_without_the_prefix_columns(toy, x):
    found = torch_parts.head(toy, {"x": x}, seam("layers.0"), ("received_attention",)).signals["received_attention"]
    block = toy.layers[0]
    weights = (block.q(x) @ block.k(x).transpose(1, 2) / D**0.5).softmax(-1)
    assert torch.allclose(found, weights.mean(1)[:, 1:], atol=1e-6)


@pytest.mark.parametrize("mask", ["causal", "boolean", "added"])
def test_attention_is_read_under_its_mask(x, mask):
    seen = torch.ones(1 + N, 1 + N).tril() if mask == "causal" else torch.arange(1 + N).ne(2).float()[None]
    given = {"causal": None, "boolean": seen.bool(), "added": seen.log()}[mask]

    class Masked(nn.Module):
        def forward(self, x):
            return F.scaled_dot_product_attention(*[x[:, None]] * 3, attn_mask=given, is_causal=given is None)[:, 0]

    names = ("cls_attention", "received_attention")
    signals = torch_parts.head(nn.Sequential(Masked()), {"x": x}, seam("0"), names).signals
    weights = (x @ x.transpose(1, 2) / D**0.5).masked_fill(seen == 0, -torch.inf).softmax(-1)
    assert torch.allclose(signals["cls_attention"], weights[:, 0, 1:], atol=1e-6)
    assert torch.allclose(signals["received_attention"], weights.mean(1)[:, 1:], atol=1e-6)


def test_keys_drop_the_prefix(toy, x):
    found = torch_parts.head(toy, {"x": x}, seam("layers.0"), ("keys",)).signals["keys"]
    assert torch.allclose(found, toy.layers[0].k(x)[:, 1:])


def test_tail_puts_other_tokens_in_place(toy, x):
    fewer = torch.randn(2, 1 + 2, D, generator=torch.Generator().manual_seed(2))
    (got,) = torch_parts.tail(toy, {"x": x}, Injected(seam("layers.0"), fewer))
    assert torch.allclose(got, toy.projector(toy.layers[1](fewer)[:, 1:]))


def test_tail_adds_log_size_to_the_logits_behind_the_seam_only(toy, x):
    """A token of size 3 must weigh what three equal tokens weigh."""
    fewer = torch.randn(2, 1 + 2, D, generator=torch.Generator().manual_seed(3))
    sizes = torch.tensor([[3.0, 1.0]]).expand(2, -1)
    (got,) = torch_parts.tail(toy, {"x": x}, Injected(seam("layers.0"), fewer, sizes))
    repeated = torch.cat([fewer[:, :2], fewer[:, 1:2], fewer[:, 1:2], fewer[:, 2:]], 1)
    expected = toy.layers[1](repeated)[:, [1, 4]]
    assert torch.allclose(got, toy.projector(expected), atol=1e-6)
    assert not torch.allclose(got, torch_parts.tail(toy, {"x": x}, Injected(seam("layers.0"), fewer))[0], atol=1e-3)


def test_a_signal_is_read_where_the_graph_reads_it_though_a_later_layer_ran(toy, x):
    """LLaVA's tower runs a last layer whose output nobody takes."""

    class Overrun(Toy):
        def forward(self, x):
            taken = self.layers[0](x)
            self.layers[1](taken)
            return self.projector(taken[:, 1:])

    module = Overrun().eval()
    module.load_state_dict(toy.state_dict())
    signals = {"keys": Signal("keys", ("k",), module="layers.0")}
    found = torch_parts.head(module, {"x": x}, replace(seam("projector", "input", 0), signals=signals), ("keys",))
    assert torch.allclose(found.signals["keys"], toy.layers[0].k(x)[:, 1:], atol=1e-6)


def test_the_tap_is_closed_again(toy, x):
    original = F.scaled_dot_product_attention
    torch_parts.head(toy, {"x": x}, seam("layers.1"), ("keys",))
    assert F.scaled_dot_product_attention is original


def test_a_signal_without_attention_is_refused(x):
    plain = nn.Sequential(nn.Linear(D, D))
    with pytest.raises(GraphError, match="attn_implementation"):
        torch_parts.head(plain, {"x": x}, seam("0"), ("keys",))


def test_the_bias_leaves_a_boolean_mask_a_mask(x):
    query, bias = x[:, None], torch.tensor([[0.0, 1.0, 0.5, 0.0, 0.0, 0.0]])
    mask = torch.ones(1 + N, 1 + N, dtype=torch.bool).tril()
    with torch_parts.attention_tap([], [bias]):
        got = F.scaled_dot_product_attention(query, query, query, attn_mask=mask)
    logits = (query @ query.transpose(-1, -2) / D**0.5 + bias[0]).masked_fill(~mask, -torch.inf)
    assert torch.allclose(got, logits.softmax(-1) @ query, atol=1e-6)


def test_a_causal_attention_keeps_its_mask_under_the_bias():
    query = torch.randn(1, 1, 3, D, generator=torch.Generator().manual_seed(4))
    sizes = torch.tensor([[1.0, 2.0, 1.0]])
    repeated = query[:, :, [0, 1, 1, 2]]
    with torch_parts.attention_tap([], [sizes.log()]):
        got = F.scaled_dot_product_attention(query, query, query, is_causal=True)
    mask = torch.tensor([[1, 0, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]], dtype=torch.bool)
    assert torch.allclose(got, F.scaled_dot_product_attention(query, repeated, repeated, mask), atol=1e-6)


def test_a_mean_over_merged_tokens_counts_what_they_stand_for():
    x = torch.randn(1, 3, D, generator=torch.Generator().manual_seed(4))
    sizes = torch.tensor([[1.0, 2.0, 1.0]])
    with torch_parts.attention_tap([], [sizes.log()], prefix=1):
        whole, behind, kept = torch.mean(x, 1), x[:, 1:].mean(dim=1), x[0].mean(0, keepdim=True)
        channels, all_of_it = torch.mean(x, -1), x.mean()
    repeated = x[:, [0, 1, 1, 2]]
    assert torch.allclose(whole, repeated.mean(1), atol=1e-6) and torch.allclose(kept, repeated[0].mean(0)[None])
    assert torch.allclose(behind, repeated[:, 1:].mean(1), atol=1e-6)
    assert torch.allclose(channels, x.mean(-1)) and torch.allclose(all_of_it, x.mean())
    assert torch.allclose(x.mean(1), x.sum(1) / 3)


def test_an_attention_that_cannot_take_the_bias_is_refused(x):
    plain = nn.Sequential(nn.Linear(D, D), nn.Linear(D, D))
    with pytest.raises(GraphError, match="--size-bias off"):
        torch_parts.tail(plain, {"x": x}, Injected(seam("0"), x, torch.ones(2, N)))
