"""Weights are found in every layout, read only where they are needed, and missed by name."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from safetensors.torch import load_file, save_file  # noqa: E402
from tokexport.errors import RequestError  # noqa: E402
from tokexport.exporter.opening import open_source  # noqa: E402
from tokexport.exporter.sources import weights, widened  # noqa: E402
from tokexport.exporter.sources.source import Source  # noqa: E402


def tokens(source: Source, x: dict[str, np.ndarray]) -> np.ndarray:
    with torch.no_grad():
        return source.encoder.module(*map(torch.from_numpy, x.values())).numpy()


def test_llava_never_reads_its_language_model(tmp_path, tiny_llava_folder, monkeypatch):
    import safetensors

    read = []
    opened = safetensors.safe_open

    class Spy:
        def __init__(self, *args, **kwargs):
            self.context = opened(*args, **kwargs)

        def __enter__(self):
            self.file = self.context.__enter__()
            return self

        def __exit__(self, *args):
            return self.context.__exit__(*args)

        def keys(self):
            return self.file.keys()

        def get_tensor(self, key):
            read.append(key)
            return self.file.get_tensor(key)

    monkeypatch.setattr(safetensors, "safe_open", Spy)
    open_source(str(tiny_llava_folder))
    assert len(read) > 40 and not [key for key in read if "language_model" in key]


OLDER = {
    "before 4.52": lambda key: key.replace("vision_tower.", "vision_tower.vision_model."),
    "4.52": lambda key: "lm_head.weight" if "lm_head" in key else f"model.{key}",
    "4.52 with vision_model": lambda key: f"model.{key.replace('vision_tower.', 'vision_tower.vision_model.')}",
}


@pytest.mark.parametrize("rename", OLDER.values(), ids=OLDER)
@pytest.mark.parametrize("form", ["one file", "shards", "pickled"])
def test_llava_folders_of_every_layout_are_the_same_model(tmp_path, tiny_llava_folder, rename, form):
    state = {rename(key): value for key, value in load_file(tiny_llava_folder / "model.safetensors").items()}
    state["vision_tower.vision_model.embeddings.position_ids"] = torch.arange(37)[None]
    for file in ("config.json", "preprocessor_config.json"):
        (tmp_path / file).write_bytes((tiny_llava_folder / file).read_bytes())
    if form == "one file":
        save_file(state, tmp_path / "model.safetensors")
    elif form == "pickled":
        torch.save(state, tmp_path / "pytorch_model.bin")
    else:
        halves = sorted(state)[::2], sorted(state)[1::2]
        for i, keys in enumerate(halves):
            save_file({key: state[key] for key in keys}, tmp_path / f"model-{i}.safetensors")
        index = {"weight_map": {key: f"model-{i}.safetensors" for i, keys in enumerate(halves) for key in keys}}
        (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    source, same = open_source(str(tmp_path)), open_source(str(tiny_llava_folder))
    assert len(source.files) == (2 if form == "shards" else 1)
    (x,) = source.real_inputs(1)
    np.testing.assert_array_equal(tokens(source, x), tokens(same, x))


def edited(folder: Path, target: Path, change) -> Path:
    state = load_file(folder / "model.safetensors")
    change(state)
    save_file(state, target / "model.safetensors")
    (target / "config.json").write_bytes((folder / "config.json").read_bytes())
    return target


def test_a_weight_that_is_absent_is_named(tmp_path, tiny_llava_folder):
    folder = edited(tiny_llava_folder, tmp_path, lambda state: state.pop("multi_modal_projector.linear_2.bias"))
    with pytest.raises(RequestError, match=r"no weight multi_modal_projector\.linear_2\.bias"):
        open_source(str(folder))


def test_a_pooling_norm_that_the_graph_does_not_use_may_be_absent(tmp_path, tiny_llava_folder):
    folder = edited(tiny_llava_folder, tmp_path, lambda state: state.pop("vision_tower.post_layernorm.weight"))
    source, whole = open_source(str(folder)), open_source(str(tiny_llava_folder))
    (x,) = whole.real_inputs(1)
    np.testing.assert_array_equal(tokens(source, x), tokens(whole, x))


def test_a_weight_of_another_shape_is_named_with_both(tmp_path, tiny_llava_folder):
    def cut(state):
        state["multi_modal_projector.linear_1.weight"] = torch.zeros(48, 31)

    with pytest.raises(RequestError, match=r"linear_1\.weight is \[48, 31\], config\.json says \[48, 32\]"):
        open_source(str(edited(tiny_llava_folder, tmp_path, cut)))


def test_modules_made_without_weights_hold_none_and_nothing_stays_patched():
    before = torch.nn.Module.register_parameter
    with weights.without_weights():
        module = torch.nn.BatchNorm1d(4)
    assert module.weight.is_meta and not module.running_mean.is_meta
    assert torch.nn.Module.register_parameter is before and not torch.nn.Linear(2, 2).weight.is_meta


def test_absent_weights_that_should_not_be_used_are_nan_so_that_their_use_shows(tmp_path, tiny_llava_folder):
    folder = tmp_path / "no-head"
    folder.mkdir()
    for file in tiny_llava_folder.iterdir():
        if file.suffix != ".safetensors":
            (folder / file.name).write_bytes(file.read_bytes())
    (shard,) = tiny_llava_folder.glob("*.safetensors")
    kept = {key: value for key, value in load_file(shard).items() if "post_layernorm" not in key}
    save_file(kept, folder / shard.name, metadata={"format": "pt"})
    state = open_source(str(folder)).encoder.module.state_dict()
    absent = [value for key, value in state.items() if "post_layernorm" in key]
    assert absent and all(value.isnan().all() for value in absent)
    assert not any(value.isnan().any() for key, value in state.items() if "post_layernorm" not in key)


LINEAR = "multi_modal_projector.linear_1"


def packed(state, *names: str) -> None:
    del state[f"{LINEAR}.weight"]
    state |= {f"{LINEAR}.{name}": torch.zeros(4, 4, dtype=torch.int32) for name in names}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.update({f"{LINEAR}.weight": state[f"{LINEAR}.weight"].to(torch.int8)}), "as int8"),
        (
            lambda state: state.update({f"{LINEAR}.weight": state[f"{LINEAR}.weight"].to(torch.float8_e4m3fn)}),
            "as float8_e4m3fn",
        ),
        (lambda state: packed(state, "qweight", "scales"), rf"as {LINEAR}.qweight, {LINEAR}.scales"),
        (lambda state: packed(state, "weight_packed"), "weight_packed"),
    ],
    ids=["bitsandbytes", "fp8", "gptq", "compressed-tensors"],
)
def test_quantised_weights_are_refused_by_name(tmp_path, tiny_llava_folder, change, message):
    """Their scales are tensors of their own: the bare numbers would be another model, and its proof would be right."""
    with pytest.raises(RequestError, match=rf"{message}.*quantised weights are not read.*--llm-weights"):
        open_source(str(edited(tiny_llava_folder, tmp_path, change)))


def test_a_missing_weight_whose_bias_is_there_is_missing(tmp_path, tiny_llava_folder):
    folder = edited(tiny_llava_folder, tmp_path, lambda state: state.pop(f"{LINEAR}.weight"))
    with pytest.raises(RequestError, match=rf"no weight {LINEAR}\.weight"):
        open_source(str(folder))


def halves(folder: Path, dtype: torch.dtype) -> torch.nn.Module:
    """Two layers in half precision, in two shards with their index; returned in float32."""
    made = torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.Linear(7, 3)).to(dtype)
    made.register_buffer("count", torch.tensor(3))
    state = {f"part.{name}": tensor.contiguous() for name, tensor in made.state_dict().items()}
    shards = {"a.safetensors": [*state][::2], "b.safetensors": [*state][1::2]}
    for name, keys in shards.items():
        save_file({key: state[key] for key in keys}, folder / name)
    index = {"weight_map": {key: name for name, keys in shards.items() for key in keys}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return made.float()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_large_weights_in_half_precision_are_pages_of_a_file_that_has_no_name(tmp_path, monkeypatch, dtype):
    monkeypatch.setattr(widened, "LARGE", 28)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setenv("TMPDIR", str(scratch))
    monkeypatch.setattr(tempfile, "tempdir", None)
    written = []
    add = widened.Widened.add
    monkeypatch.setattr(
        widened.Widened, "add", lambda self, name, *rest: (written.append(name), add(self, name, *rest))
    )
    own = halves(tmp_path, dtype)
    found = torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.Linear(7, 3))
    found.register_buffer("count", torch.tensor(0))
    weights.Weights(tmp_path).load(found, "part")
    # The last bias is small.
    assert sorted(written) == ["0.bias", "0.weight", "1.weight"] and not [*scratch.iterdir()]
    for name, tensor in own.state_dict().items():
        assert torch.equal(found.state_dict()[name].to(tensor.dtype), tensor), name
    with torch.no_grad():
        # What one copy changes, as an adapter does, no other sees.
        again = torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.Linear(7, 3))
        weights.Weights(tmp_path).load(again, "part")
        again[0].weight += 1
    assert torch.equal(found[0].weight, own[0].weight) and torch.equal(again[0].weight, own[0].weight + 1)


def test_a_scratch_file_that_cannot_be_written_is_told_with_what_to_set(tmp_path, monkeypatch):
    monkeypatch.setattr(widened, "LARGE", 28)
    monkeypatch.setattr(widened, "scratch_folder", lambda: str(tmp_path / "none"))
    halves(tmp_path, torch.float16)
    with pytest.raises(RequestError, match="scratch file as float32, and cannot be: No such file") as refusal:
        weights.Weights(tmp_path).load(torch.nn.Sequential(torch.nn.Linear(5, 7)), "part")
    assert "export TMPDIR=" in refusal.value.fix
