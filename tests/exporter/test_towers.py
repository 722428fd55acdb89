"""Image towers alone: compressed between their layers, and uncompressed what transformers makes of a picture."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_towers
import tokexport
from click.testing import CliRunner
from tokexport.errors import RequestError
from tokexport.exporter.cli import main
from tokexport.exporter.opening import open_source
from tokexport.runtimes.media.image import pixel_values

pytest.importorskip("transformers")

TOKENS = (tiny_towers.SIDE // tiny_towers.PATCH) ** 2
# Of these the whole way is gone; the others differ from one of them in what is read of the same graph.
EXPORTED = (
    "ViTForImageClassification",
    "CLIPModel",
    "SiglipModel",
    "Dinov2WithRegistersForImageClassification",
    "DINOv3ViTModel",
    "Siglip2Model",
)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The folder of an architecture, made once."""
    where, made = tmp_path_factory.mktemp("towers"), {}

    def folder(architecture: str) -> Path:
        if architecture not in made:
            made[architecture] = tiny_towers.tower(where / architecture.lower(), architecture)
        return made[architecture]

    return folder


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (60, 60, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def photo(picture: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from PIL import Image

    path = tmp_path_factory.mktemp("photos") / "a.png"
    Image.fromarray(picture).save(path)
    return path


@pytest.fixture(scope="module", params=EXPORTED)
def exported(request: pytest.FixtureRequest, folders: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Folder and bundle: all tokens, and a quarter of them."""
    folder = folders(request.param)
    out = tmp_path_factory.mktemp("bundles") / folder.name
    return folder, tokexport.export(str(folder), out, method="kcenter_merge", keep=[TOKENS, 9])


def changed(folder: Path, target: Path, **config: Any) -> Path:
    """The folder with other values in config.json."""
    made = shutil.copytree(folder, target)
    path = made / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **config}))
    return made


def test_a_quantised_tower_is_refused(folders: Any, tmp_path: Path) -> None:
    how = {"quant_method": "bitsandbytes", "load_in_8bit": True}
    with pytest.raises(RequestError, match=r"quantised by bitsandbytes: quantised weights are not read"):
        open_source(str(changed(folders("ViTModel"), tmp_path / "vit", quantization_config=how)))


def test_a_model_type_that_transformers_does_not_know_has_its_nearest(folders: Any, tmp_path: Path) -> None:
    folder = changed(folders("ViTModel"), tmp_path / "vit", model_type="vitt")
    with pytest.raises(RequestError, match=r"no model_type .vitt.*Did you mean vit.*pip install -U"):
        open_source(str(folder))
    folder = changed(folders("ViTModel"), tmp_path / "other", architectures=["LlavaForConditionalGeneratoin"])
    with pytest.raises(RequestError, match=r"Did you mean LlavaForConditionalGeneration"):
        open_source(str(folder))


def own_result(folder: Path, picture: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pixels, last hidden states and result of transformers' own processor and model."""
    import torch
    import transformers

    (architecture,) = json.loads((folder / "config.json").read_text())["architectures"]
    said = {**tiny_towers.processor(architecture), "size": {"height": tiny_towers.SIDE, "width": tiny_towers.SIDE}}
    if architecture.startswith(("Siglip2", "DINOv3")):
        # Their own processors need torchvision; on a square picture they do what this one does.
        process = transformers.ViTImageProcessorPil(**said)
    else:
        process = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil")
    inputs = process(picture, return_tensors="pt")
    pixels = inputs["pixel_values"].numpy()
    if architecture.startswith("Siglip2"):
        inputs = patched(inputs["pixel_values"])
    model = getattr(transformers, architecture).from_pretrained(folder, dtype=torch.float32)
    base = getattr(model, "vision_model", model.base_model)
    with torch.no_grad():
        found = model.get_image_features(**inputs) if hasattr(model, "get_image_features") else model(**inputs)
        states = found.last_hidden_state if "last_hidden_state" in found else base(**inputs)[0]
    result = next(found[name] for name in ("logits", "image_embeds", "pooler_output") if name in found)
    return pixels, states.detach().numpy(), result.numpy()


def patched(pixels: Any) -> dict[str, Any]:
    """As SigLIP 2's processor hands pictures over: rows, columns, channels of each patch."""
    import torch

    side, patch = tiny_towers.SIDE // tiny_towers.PATCH, tiny_towers.PATCH
    patches = pixels[0].reshape(3, side, patch, side, patch).permute(1, 3, 2, 4, 0).reshape(1, TOKENS, -1)
    mask, shapes = torch.ones(1, TOKENS, dtype=torch.int64), torch.tensor([[side, side]])
    return {"pixel_values": patches, "pixel_attention_mask": mask, "spatial_shapes": shapes}


@pytest.mark.parametrize("architecture", tiny_towers.TOWERS)
def test_the_module_is_the_model_of_transformers_on_the_pixels_of_its_processor(folders, picture, architecture):
    import torch

    folder = folders(architecture)
    source = open_source(str(folder))
    pixels, states, result = own_result(folder, picture)
    np.testing.assert_allclose(pixel_values_of(picture, source), pixels, atol=1e-6)
    with torch.no_grad():
        tokens, found = source.encoder.module(torch.from_numpy(pixels))
    np.testing.assert_allclose(tokens, states[:, -TOKENS:], atol=1e-5)
    np.testing.assert_allclose(found, result, atol=1e-5)
    assert found.std() > 0.01 and source.encoder.grid == (6, 6)


def pixel_values_of(picture: np.ndarray, source: Any) -> np.ndarray:
    from PIL import Image

    return pixel_values(Image.fromarray(picture), source.preprocess)


def test_every_part_is_proved_and_the_compressor_sits_inside(exported):
    for data in (exported[1], *exported[1].further):
        assert {check["part"] for check in data.proof["checks"] if check["ok"]} == {"head", "compressor", "tail"}
        assert data.compression[0]["seam"]["kind"] == "encoder_layer:0"
    assert exported[1].further[0].compression[0]["size_bias"]


def test_no_graph_holds_a_mask_that_masks_nothing(exported):
    """Of large pictures such a constant is computed in the graph, and no seam in front of it can be used."""
    import onnx

    folder, made = exported
    graph = onnx.load(made.bundle / "encoder.onnx", load_external_data=False).graph
    length = TOKENS + open_source(str(folder)).encoder.module.prefix
    assert len(graph.initializer) > 20
    assert not [one.name for one in graph.initializer if list(one.dims)[-2:] == [length, length]]


def test_without_compression_it_gives_what_transformers_gives(exported, picture):
    folder, made = exported
    _, states, result = own_result(folder, picture)
    session = tokexport.load(made.bundle)
    found = session.encode(picture)
    name = open_source(str(folder)).answer
    np.testing.assert_allclose(found["tokens"], states[:, -TOKENS:], atol=1e-4)
    np.testing.assert_allclose(found[name], result, atol=1e-4)
    fewer = tokexport.load(made.bundle, variant="kcenter_merge-keep9").encode(picture)
    assert fewer["tokens"].shape == (1, 9, 32) and not np.allclose(fewer[name], result, atol=1e-3)


def test_a_third_of_the_layers_see_all_tokens(tmp_path):
    for layers, last in ((1, 0), (3, 0), (4, 1), (12, 3)):
        folder = tiny_towers.tower(tmp_path / str(layers), "ViTModel", num_hidden_layers=layers)
        assert set(open_source(str(folder)).auto_seam.values()) == {f"encoder_layer:{last}"}


def test_the_text_side_is_missed_in_the_first_line(folders, tmp_path):
    arguments = ("--method", "topk", "--keep", "9", "--no-verify", "-o", str(tmp_path / "b"))
    done = run("model", str(folders("CLIPModel")), *arguments)
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines()[0].startswith("clipmodel: only its image side is exported")
    for alone in ("CLIPVisionModel", "CLIPForImageClassification"):
        assert not open_source(str(folders(alone))).omitted


def test_a_tower_that_pools_nothing_is_refused(tmp_path):
    folder = tiny_towers.tower(tmp_path / "headless", "SiglipVisionModel", vision_use_head=False)
    with pytest.raises(RequestError, match="vision_use_head is false"):
        open_source(str(folder))


def test_the_table_of_families_is_that_of_the_kinds():
    from tokexport.exporter.families import FAMILIES, known_architectures
    from tokexport.exporter.families.tower_kinds import KINDS

    assert set(FAMILIES["tower"]) == set(KINDS) == set(tiny_towers.TOWERS) <= set(known_architectures())


@pytest.mark.parametrize(
    "architecture",
    ["DPTForDepthEstimation", "Dinov2Backbone", "ViTForMaskedImageModeling", "BeitForSemanticSegmentation"],
)
def test_a_model_that_answers_for_every_place_is_refused_with_the_reason(tmp_path, architecture):
    (tmp_path / "config.json").write_text(json.dumps({"architectures": [architecture], "model_type": "dinov2"}))
    with pytest.raises(RequestError, match=f"{architecture} gives something for every place"):
        open_source(str(tmp_path))


def test_at_the_end_a_mean_over_merged_tokens_is_weighted_and_proved(folders, tmp_path):
    folder = folders("Dinov2ForImageClassification")
    settings = {"method": "kcenter_merge", "keep": 9, "seam": "encoder_output"}
    made = tokexport.export(str(folder), tmp_path / "b", **settings)
    assert made.compression[0]["size_bias"] and made.compression[0]["seam"]["prefix"] == 1
    assert any(check["tensor"] == "logits" and check["ok"] for check in made.proof["checks"])
    # Unweighted, a slot of several tokens counts once.
    plain = tokexport.export(str(folder), tmp_path / "c", **settings, size_bias="off", verify=False)
    pixels = open_source(str(folder)).real_inputs(1)[0]["pixel_values"]
    one, other = (tokexport.load(each.bundle).encode(pixels)["logits"] for each in (made, plain))
    assert not plain.compression[0]["size_bias"] and np.abs(one - other).max() > 1e-3


TOME = """
[[steps]]
method = "tome"
seam = "encoder_layer:0"
keep = 28

[[steps]]
method = "tome"
seam = "encoder_layer:1"
keep = 20
"""


@pytest.mark.parametrize("architecture", ["ViTForImageClassification", "DINOv3ViTModel"])
def test_tome_removes_as_many_in_every_layer(tmp_path, architecture):
    """DINOv3's layers read rotary tables: each step takes rows of those that the one before took."""
    folder = tiny_towers.tower(tmp_path / "deep", architecture, num_hidden_layers=3)
    (tmp_path / "tome.toml").write_text(TOME)
    done = run("model", str(folder), "--recipe", str(tmp_path / "tome.toml"), "-o", str(tmp_path / "b"), "--json")
    assert done.exit_code == 0, done.output
    data = json.loads(done.stdout)
    assert [(one["tokens_in"], one["tokens_out"]) for one in data["compression"]] == [(36, 28), (28, 20)]
    assert all(one["size_bias"] for one in data["compression"]) and all(one["ok"] for one in data["proof"]["checks"])


def test_a_sweep_judges_the_class_and_not_the_tokens(folders, photo, tmp_path, monkeypatch):
    monkeypatch.setattr("tokexport.exporter.evaluate.bench.ROUNDS", 1)
    arguments = ("--inputs", str(photo.parent), "--method", "tome", "--ratio", "0.25", "-o", str(tmp_path / "s"))
    done = run("sweep", str(folders("ViTForImageClassification")), *arguments, "--json")
    assert done.exit_code == 0, done.output
    data = json.loads(done.stdout)
    row = next(row for row in data["rows"] if row["method"] == "tome")
    assert data["figure"] == "agreement" and "likeliest classes equal" in data["metric"]
    assert data["uncompressed"]["agreement"] == 1 and row["agreement"] in (0, 1)
    assert "agreement_without_bias" in row and "encoder_gain" in row
    smaller = next(row for row in data["rows"] if row["method"] == "resolution")
    assert smaller["keep"] == 25 and smaller["agreement"] in (0, 1) and "encoder_gain" in smaller


def test_a_sweep_judges_the_embedding_of_a_tower_without_classes(folders, photo):
    from tokexport.exporter.evaluate.bench import Bench
    from tokexport.exporter.evaluate.judges import Folder
    from tokexport.graph_passes.compressors import make

    folder, compressor = folders("CLIPModel"), make("kcenter_merge")
    bench = Bench(open_source(str(folder)))
    judge = Folder(bench, photo.parent, None)
    seam, exam = bench.base.seam(compressor), judge.question_set(bench.base, 0)
    encoded = exam.encode(seam, compressor, 9)
    full = exam.encode(seam, compressor, TOKENS).answer
    wanted = (full * encoded.answer).sum() / np.linalg.norm(full) / np.linalg.norm(encoded.answer)
    found = judge.score(exam, seam, encoded, 9, 0)
    assert judge.figure == "cosine" and "embedding" in judge.metric and seam.name == "encoder_layer:0"
    assert found["cosine"] == pytest.approx(wanted, abs=1e-6) and found["cosine"] < 0.9999


@pytest.mark.parametrize("side", [4, 100_000])
def test_pictures_of_a_size_that_cannot_be_are_refused(folders, tmp_path, side):
    folder = shutil.copytree(folders("DINOv3ViTModel"), tmp_path / "odd")
    said = {**tiny_towers.processor("DINOv3ViTModel"), "size": {"height": side, "width": side}}
    (folder / "preprocessor_config.json").write_text(json.dumps(said))
    with pytest.raises(RequestError, match="smaller than a patch, 8, or a side is longer than 4096"):
        open_source(str(folder))


# CLIP and a ViT by the command line


def test_a_clip_folder_gives_the_embedding_of_a_picture(folders, photo, tmp_path):
    out = str(tmp_path / "clip")
    done = run("model", str(folders("CLIPModel")), "--method", "topk", "--ratio", "0.75", "-o", out, "--no-verify")
    assert done.exit_code == 0, done.output
    shown = run("run", out, "--image", str(photo))
    assert shown.exit_code == 0, shown.output
    embedding = tokexport.load(out).encode(photo)["embedding"][0]
    first = shown.stdout.splitlines()[0]
    assert first.startswith(f"embedding of 24 numbers, length {np.linalg.norm(embedding):.4f}: {embedding[0]:.4f} ")
    assert "kept positions" in shown.stdout and "no language graphs" not in shown.stdout
    data = json.loads(run("run", out, "--image", str(photo), "--json").stdout)
    np.testing.assert_allclose(data["embedding"], embedding, rtol=1e-6)
    asked = run("run", out, "--image", str(photo), "--prompt", "what is it ?")
    assert "the question is not asked" in asked.stderr
    with pytest.raises(RequestError, match="an image tower, whose answer is an output of its encoder"):
        tokexport.load(out).generate(photo, "what is it ?")


VIT = "ViTForImageClassification"


def run(*arguments: str) -> Any:
    return CliRunner().invoke(main, list(arguments))


@pytest.fixture(scope="module")
def vit(folders: Any, tmp_path_factory: pytest.TempPathFactory) -> str:
    out = str(tmp_path_factory.mktemp("bundles") / "vit")
    done = run("model", str(folders(VIT)), "--method", "kcenter_merge", "--ratio", "0.75", "-o", out)
    assert done.exit_code == 0, done.output
    assert "kcenter_merge at encoder_layer:0" in done.stdout and "36 -> 9 tokens, size bias on" in done.stdout
    return out


def test_run_prints_the_classes_with_their_probabilities(vit, photo):
    done = run("run", vit, "--image", str(photo))
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    shares = [float(line.split("%")[0]) for line in lines[:5]]
    assert shares == sorted(shares, reverse=True) and sum(shares) == pytest.approx(100, abs=0.3)
    logits = tokexport.load(vit).encode(photo)["logits"][0]
    assert lines[0].endswith(f"kind {logits.argmax()}")
    data = json.loads(run("run", vit, "--image", str(photo), "--json").stdout)
    share = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    assert [one["class"] for one in data["classes"]] == np.argsort(-share).tolist()
    assert data["classes"][0]["probability"] == pytest.approx(share.max(), rel=1e-4)


def test_classes_without_names_go_by_their_numbers(tmp_path, folders, photo):
    folder = shutil.copytree(folders(VIT), tmp_path / "nameless")
    config = json.loads((folder / "config.json").read_text())
    names = config.pop("id2label")
    (folder / "config.json").write_text(json.dumps({**config, "num_labels": len(names)}))
    source = open_source(str(folder))
    assert source.processor.labels is None and not source.processor_files


def test_labels_that_are_not_those_of_the_classes_are_refused(tmp_path, folders):
    folder = shutil.copytree(folders(VIT), tmp_path / "wrong")
    config = json.loads((folder / "config.json").read_text())
    config["id2label"] = {"0": "a", "1": "b", "2": "c", "3": "d", "7": "e"}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(RequestError, match="id2label names 5 classes, and not those from 0 to 4"):
        open_source(str(folder))


def test_a_vit_without_a_pooler_is_embedded_by_cls(tmp_path, picture):
    folder = tiny_towers.tower(tmp_path / "plain", "ViTModel", pooler=False)
    source = open_source(str(folder))
    assert any("no pooler" in note for note in source.notes)
    import torch

    with torch.no_grad():
        _, embedding = source.encoder.module(torch.from_numpy(pixel_values_of(picture, source)))
    _, states, _ = own_result(folder, picture)
    np.testing.assert_allclose(embedding, states[:, 0], atol=1e-5)


def test_a_weight_that_is_absent_or_of_another_shape_is_named(tmp_path, folders):
    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(folders(VIT), tmp_path / "damaged")
    state = load_file(folder / "model.safetensors")
    save_file({**state, "classifier.weight": state["classifier.weight"][:4].clone()}, folder / "model.safetensors")
    with pytest.raises(RequestError, match=r"classifier.weight is \[4, 32\], config.json says \[5, 32\]"):
        open_source(str(folder))
    del state["classifier.bias"]
    save_file(state, folder / "model.safetensors")
    with pytest.raises(RequestError, match=r"no weight classifier.bias"):
        open_source(str(folder))
