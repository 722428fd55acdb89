"""The attention of exported decoders, on tensors by hand, against the formula with repeated keys and one softmax."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from tokexport.exporter.decoders.attention import Both, Given, Kept, attention  # noqa: E402

SELF, CROSS = SimpleNamespace(is_causal=True, layer_idx=1), SimpleNamespace(is_causal=False, layer_idx=1)


def tensors(heads=4, groups=2, rows=3, keys=5, dim=8):
    generator = torch.Generator().manual_seed(0)
    make = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    return make(2, heads, rows, dim), make(2, groups, keys, dim), make(2, groups, keys, dim)


def formula(query, key, value, mask=0.0, scaling=None, softcap=None):
    """[B, n, H, d], with every key repeated for each head that reads it."""
    repeat = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(repeat, 1), value.repeat_interleave(repeat, 1)
    logits = query @ key.transpose(2, 3) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    return ((logits + mask).softmax(-1) @ value).transpose(1, 2)


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_grouped_queries_read_the_keys_of_their_group(groups):
    query, key, value = tensors(groups=groups)
    mask = torch.randn(2, 1, 3, 5)
    out, weights = attention(SELF, query, key, value, mask)
    torch.testing.assert_close(out, formula(query, key, value, mask))
    assert out.shape == (2, 3, 4, 8) and weights is None


def test_scaling_and_softcap():
    query, key, value = tensors()
    out, _ = attention(SELF, query, key, value, None, scaling=1.0, softcap=0.5)
    torch.testing.assert_close(out, formula(query, key, value, scaling=1.0, softcap=0.5))


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("softcap", [None, 0.5])
def test_a_decoded_token_reads_the_past_that_the_mask_shows_and_itself(groups, softcap):
    query, key, value = tensors(groups=groups, rows=1, keys=6)
    new, past = (key[:, :, -1:], value[:, :, -1:]), (key[:, :, :-1], value[:, :, :-1])
    mask = torch.tensor([0.0, 0.0, -1e4, 0.0, -1e4])[None, None, None]
    other = (torch.zeros_like(past[0]), torch.zeros_like(past[1]))
    out, _ = attention(SELF, query, *new, mask, softcap=softcap, past={0: other, 1: past})
    shown = torch.cat([mask, torch.zeros(1, 1, 1, 1)], -1)
    torch.testing.assert_close(out, formula(query, key, value, shown, softcap=softcap))


def test_cross_attention_reads_its_bias_and_neither_mask_nor_past():
    query, key, value = tensors()
    bias = torch.randn(2, 1, 1, 5)
    out, _ = attention(CROSS, query, key, value, torch.full((1, 1, 3, 5), 9.0), past={1: (key, value)}, cross_bias=bias)
    torch.testing.assert_close(out, formula(query, key, value, bias))


def test_caches_keep_what_is_computed_and_give_what_is_given():
    own, pair = Kept(), (torch.ones(1), torch.zeros(1))
    assert own.update(*pair, 3) == pair and own.computed == {3: pair} and own.get_seq_length() == 0 and not own
    given = Both(Kept(), Given([pair, pair]))
    assert given.cross_attention_cache.layers[1].keys is pair[0] and given.is_updated == {0: True, 1: True}
    assert not Both(Kept(), Kept()).is_updated
