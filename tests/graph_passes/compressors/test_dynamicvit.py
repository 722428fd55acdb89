"""DynamicViT: its networks by inspection, and as the released code names and computes them."""

import numpy as np
import pytest
import torch
from body_runner import every_way
from learned_weights import asked_shapes, random_weights
from tokexport.errors import RequestError
from tokexport.graph_passes.compressors import Case, make
from tokexport.graph_passes.compressors.base import weights
from tokexport.graph_passes.compressors.blocks import select
from torch import nn


def arrays(case, **given):
    """Weights that are 0 but for the norm, and those given."""
    zero = {name: np.zeros(shape, np.float32) for name, shape in asked_shapes("dynamicvit", {}, case).items()}
    at = "score_predictor.0"
    zero[f"{at}.in_conv.0.weight"] += 1
    return zero | {f"{at}.{name}.weight": np.array(array, np.float32) for name, array in given.items()}


class Predictor(nn.Module):
    """The released network, written down again: a mask says which tokens are still there."""

    def __init__(self, dim):
        super().__init__()
        self.in_conv = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, dim), nn.GELU())
        layers = [nn.Linear(dim, dim // 2), nn.GELU(), nn.Linear(dim // 2, dim // 4), nn.GELU(), nn.Linear(dim // 4, 2)]
        self.out_conv = nn.Sequential(*layers, nn.LogSoftmax(dim=-1))

    def forward(self, x, there):
        x = self.in_conv(x)
        half = x.shape[-1] // 2
        mean = (x[..., half:] * there).sum(1, keepdim=True) / there.sum(1, keepdim=True)
        return self.out_conv(torch.cat([x[..., :half], mean.expand(-1, x.shape[1], -1)], -1))


def test_the_first_half_of_the_channels_ranks_and_the_second_is_the_same_for_all(tmp_path):
    case = Case(4, 4, 2)
    layers = {
        "in_conv.1": np.eye(4),
        # The score grows with channel 0 of a token, and reads channel 2 of all: that changes no order.
        "out_conv.0": [[3, 0, 100, 0], [0, 0, 0, 0]],
        "out_conv.2": [[3, 0]],
        "out_conv.4": [[3], [-3]],
    }
    np.savez(tmp_path / "w.npz", **arrays(case, **layers))
    tokens = np.array([[0, 0, 0, 4], [3, 1, 1, 1], [0, 2, 2, 2], [5, 1, 1, 1]], np.float32)[None]
    for way, got in every_way(make("dynamicvit", {"weights": str(tmp_path / "w.npz")}), case, tokens).items():
        assert got.kept_indices.tolist() == [[1, 3]] and got.assignment.tolist() == [[-1, 0, -1, 1]], way
        np.testing.assert_array_equal(got.tokens, tokens[:, [1, 3]], err_msg=way)


@pytest.mark.parametrize("stage", [0, 1])
def test_it_keeps_what_the_released_network_keeps_from_the_file_of_a_checkpoint(stage, tmp_path):
    """At a stage where others are gone already, their mask is 0 there, and they are no tokens here."""
    from safetensors.torch import save_file

    torch.manual_seed(0)
    model = nn.Module()
    model.score_predictor = nn.ModuleList(Predictor(16) for _ in range(2))
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.5)
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    every = torch.randn(3, 20, 16)
    there = torch.zeros(3, 20, 1)
    there[:, ::2] = 1
    with torch.no_grad():
        scores = model.score_predictor[stage](every, there)[:, ::2, 0]
    wanted = scores.argsort(dim=1, descending=True)[:, :4].sort(dim=1).values
    compressor = make("dynamicvit", {"weights": str(tmp_path / "w.safetensors"), "stage": stage})
    for way, got in every_way(compressor, Case(10, 16, 4), every[:, ::2].numpy()).items():
        assert got.kept_indices.tolist() == wanted.tolist(), way


def test_a_wrong_pick_has_regret_and_a_tie_has_none(tmp_path):
    case = Case(3, 8, 1)
    random_weights("dynamicvit", {}, case, tmp_path / "w.npz", spread=1)
    method = make("dynamicvit", {"weights": str(tmp_path / "w.npz")})
    learned = {name: torch.from_numpy(array) for name, array in weights(method, case).items()}
    tokens = torch.tensor([[[4.0, -1, 0, 1, 2, 0, 0, 1], [4.0, -1, 0, 1, 2, 0, 0, 1], [-3.0, 2, 5, 0, 1, 1, -2, 0]]])
    best = method.reference(case, tokens, **learned).kept_indices.item()
    picks = [select.selection(tokens, torch.tensor([[i]])) for i in range(3)]
    regrets = [method.replay(case, tokens, pick, **learned).regret.item() for pick in picks]
    assert best in (0, 2) and regrets[best] == 0 and max(regrets) > 1e-3
    assert regrets[0] == regrets[1]


def test_refusals():
    with pytest.raises(RequestError, match="6 is no multiple of 4"):
        make("dynamicvit").check(Case(9, 6, 3))
    with pytest.raises(RequestError, match=r"stage -1 is negative.*stage=0"):
        make("dynamicvit", {"stage": -1})
