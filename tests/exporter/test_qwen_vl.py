"""Qwen's folders whole: the encoders, positions and answers of transformers, the size of images, what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_qwen_vl
import tokexport
from click.testing import CliRunner
from PIL import Image
from tokexport.errors import RequestError
from tokexport.exporter.cli import main
from tokexport.exporter.opening import open_source
from tokexport.runtimes.media.image import pixel_values

pytest.importorskip("transformers")

QUESTION = "What is in w17 w18 ?"
IMAGE, END = tiny_qwen_vl.IDS[tiny_qwen_vl.IMAGE], tiny_qwen_vl.IDS[tiny_qwen_vl.END]
LENGTHS = ("--prompt-length", "32", "--answer-length", "20")


KINDS = ("Qwen2VL", "Qwen2_5_VL", "Qwen3VL")
# Its encoder is that of Qwen3-VL without further channels.
HYBRID = "Qwen3_5"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Of pictures of 96 x 96 pixels: 12 x 12 patches, 6 x 6 tokens."""
    root = tmp_path_factory.mktemp("checkpoints")
    return {kind: tiny_qwen_vl.qwen_vl(root / kind, kind) for kind in (*KINDS, HYBRID)}


@pytest.fixture(scope="module", params=[*KINDS, pytest.param(HYBRID, marks=pytest.mark.slow)])
def each(request: pytest.FixtureRequest, folders: dict[str, Path]) -> Path:
    return folders[request.param]


@pytest.fixture(scope="module")
def model(each: Path) -> Any:
    import torch
    import transformers

    kind = getattr(transformers, f"{each.name}ForConditionalGeneration")
    return kind.from_pretrained(each, dtype=torch.float32)


@pytest.fixture
def folder(folders: dict[str, Path]) -> Path:
    return folders["Qwen2VL"]


def processed(folder: Path, number: int) -> tuple[np.ndarray, Any]:
    """A picture, and what the processor of the model makes of it."""
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    picture = np.random.default_rng(number).integers(0, 256, (96, 96, 3), dtype=np.uint8)
    return picture, Qwen2VLImageProcessorPil.from_pretrained(folder)(picture, return_tensors="pt")


def copied(folder: Path, tmp_path: Path, **changes: Any) -> Path:
    """The folder with other values in its JSON files, by name of the file without its end."""
    made = shutil.copytree(folder, tmp_path / "copy")
    for name, change in changes.items():
        path = made / f"{name}.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    return made


def test_the_encoder_gives_the_tokens_of_transformers(each, model):
    import torch

    source = open_source(str(each))
    _, given = processed(each, 0)
    grid = given["image_grid_thw"]
    assert grid.tolist() == [[1, 12, 12]] and source.encoder.grid == (6, 6)
    # The processor's rows are patches: put them back where they stood.
    frames = given["pixel_values"].reshape(6, 6, 2, 2, 3, 2, 8, 8)[:, :, :, :, :, 0]
    picture = frames.permute(4, 0, 2, 5, 1, 3, 6).reshape(1, 3, 96, 96)
    with torch.no_grad():
        said = model.get_image_features(given["pixel_values"], grid)
        wanted = torch.cat([part[0] for part in (said.pooler_output, *getattr(said, "deepstack_features", ()))], -1)
        assert wanted.shape == (36, 96 if each.name == "Qwen3VL" else 32) and wanted.std(0).min() > 0.01
        assert torch.allclose(source.encoder.module(picture)[0], wanted, atol=1e-5)
        both = source.encoder.module(torch.cat([picture.flip(3), picture]))
    assert torch.allclose(both[1], wanted, atol=1e-5)


def test_tokens_stand_at_their_row_and_column_and_text_behind_the_larger_side(each):
    positions = open_source(str(each)).positions()
    assert positions.rows.tolist() == [[0] * 36, [i // 6 for i in range(36)], [i % 6 for i in range(36)]]
    assert positions.advance == 6


@pytest.fixture(scope="module")
def made(each: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the command says of a quarter of the 36 tokens and of all, which the folder's own model must answer too."""
    out = tmp_path_factory.mktemp("bundles") / "b"
    arguments = ["--method", "kcenter_merge", "--keep", "9", "--keep", "36", *LENGTHS, "-o", str(out), "--json"]
    result = CliRunner().invoke(main, ["model", str(each), *arguments])
    assert result.exit_code == 0, result.output
    return {**json.loads(result.stdout), "out": out}


@pytest.fixture(scope="module")
def whole(made: dict[str, Any]) -> Any:
    """The bundle with all tokens."""
    return tokexport.load(made["out"], variant="kcenter_merge-keep36")


@pytest.mark.parametrize("number", range(3))
def test_without_compression_it_answers_as_transformers_does(each, whole, model, number):
    import torch
    import transformers

    picture, given = processed(each, number)
    tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(each)
    turn = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": QUESTION}]}]
    ids = tokenizer(tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True))["input_ids"]
    place = ids.index(IMAGE)
    full = torch.tensor([[*ids[:place], *[IMAGE] * 36, *ids[place + 1 :]]])
    said = model.generate(
        input_ids=full,
        attention_mask=torch.ones_like(full),
        mm_token_type_ids=(full == IMAGE).int(),
        **given,
        max_new_tokens=20,
        do_sample=False,
        eos_token_id=END,
    )[0, full.shape[1] :].tolist()
    assert len(set(said)) > 3
    assert whole.variant.generation.image_span == (place, 36)
    assert whole.generate(picture, QUESTION).ids == [i for i in said if i != END]


def test_the_command_proves_what_it_says_against_transformers(made):
    data = made
    checks = {check["part"]: check for check in data["proof"]["checks"]}
    assert {"compressor", "head", "embed", "prefill", "decode", "generation"} <= checks.keys()
    assert data["compression"][0]["size_bias"] and data["compression"][0]["tokens_out"] == 9
    assert checks["generation"]["ok"] and "tokens of 3 answers compared" in checks["generation"]["detail"]
    assert any("96 x 96 pixels, which are 36 tokens" in note for note in data["notes"])


def test_wrong_rows_and_columns_change_the_answer(each, whole):
    """The proof would see it: the folder's model reads its tokens where they stood."""
    source, none = open_source(str(each), parts="all"), np.zeros((1, 36), np.float32)
    encoded = whole.encode(source.real_inputs(1)[0]["pixel_values"])
    own = source.own_answer(encoded, none, 20)
    moved = source.own_answer({**encoded, "kept_indices": encoded["kept_indices"][:, ::-1].copy()}, none, 20)
    assert np.abs(own.scores[0] - moved.scores[0]).max() > 1e-3


@pytest.mark.parametrize(
    ("kind", "seam"), [(kind, "encoder_output") for kind in KINDS] + [("Qwen3VL", "projector_input")]
)
def test_tokens_cannot_be_removed_before_they_are_whole(folders, tmp_path, kind, seam):
    """Four patches are one token; those of Qwen3-VL are whole when their further channels are there."""
    arguments = ("--method", "uniform", "--keep", "9", "--seam", seam, "--parts", "encoder", "-o", str(tmp_path / "b"))
    result = CliRunner().invoke(main, ["model", str(folders[kind]), *arguments])
    assert result.exit_code == 2 and not (tmp_path / "b").exists()
    assert "fewer tokens" in result.stderr or "is not valid" in result.stderr
    assert ("its merger makes one token" in " ".join(result.stderr.split())) == (seam == "encoder_output")


@pytest.mark.parametrize("layout", ["newer keys", "flat config.json"])
def test_folders_of_other_versions_of_transformers(folder, tmp_path, layout):
    import torch
    from safetensors.torch import load_file, save_file

    other = copied(folder, tmp_path)
    if layout == "newer keys":
        path = other / "model.safetensors"
        names = {"model.": "model.language_model.", "visual.": "model.visual."}
        renamed = {}
        for key, tensor in load_file(path).items():
            old = next((name for name in names if key.startswith(name)), "")
            renamed[names.get(old, "") + key.removeprefix(old)] = tensor
        save_file(renamed, path, {"format": "pt"})
    else:
        path = other / "config.json"
        config = json.loads(path.read_text())
        text = {key: value for key, value in config.pop("text_config").items() if key != "model_type"}
        path.write_text(json.dumps({**text, **config}))
    one, same = (open_source(str(each), parts="all") for each in (folder, other))
    for name, tensor in one.decoder.model.state_dict().items():
        assert torch.equal(tensor, same.decoder.model.state_dict()[name]), name
    assert torch.equal(one.decoder.head.weight, same.decoder.head.weight)


@pytest.mark.parametrize(
    ("limits", "side"),
    [
        ({}, 448),
        ({"min_pixels": 3136, "max_pixels": 12845056}, 448),
        ({"size": {"shortest_edge": 65536, "longest_edge": 16777216}}, 448),
        ({"size": {"min_pixels": 3136, "max_pixels": 50176}}, 224),
        ({"min_pixels": 600 * 600}, 608),
        ({"max_pixels": 100 * 100}, 96),
    ],
)
def test_images_are_a_square_that_the_image_processor_allows(folder, tmp_path, limits, side):
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

    other = copied(folder, tmp_path)
    path = other / "preprocessor_config.json"
    kept = {key: value for key, value in json.loads(path.read_text()).items() if not key.endswith("pixels")}
    path.write_text(json.dumps({**kept, **limits}))
    source = open_source(str(other))
    assert source.encoder.inputs["pixel_values"].shape == (1, 3, side, side)
    assert source.preprocess.size == (side, side) and source.preprocess.crop == "none"
    assert source.tokens == (side // 16) ** 2
    size = limits.get("size", limits)
    fewest = size.get("shortest_edge", size.get("min_pixels", 3136))
    most = size.get("longest_edge", size.get("max_pixels", 28 * 28 * 1280))
    assert smart_resize(side, side, 16, fewest, most) == (side, side)


def test_an_image_size_is_what_the_image_processor_makes_of_it(each, model, tmp_path):
    """Of whole windows, where there are some; rows and columns are not equal then."""
    import torch
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    other = copied(each, tmp_path, preprocessor_config={"min_pixels": 3136, "max_pixels": 100 * 100})
    source = open_source(str(other), image_size=(66, 130))
    assert source.image_size == source.preprocess.size == (64, 128) and source.encoder.grid == (4, 8)
    picture = np.random.default_rng(0).integers(0, 256, (66, 130, 3), dtype=np.uint8)
    given = Qwen2VLImageProcessorPil.from_pretrained(other)(picture, return_tensors="pt")
    pixels = torch.from_numpy(pixel_values(Image.fromarray(picture), source.preprocess))
    with torch.no_grad():
        said = model.get_image_features(given["pixel_values"], given["image_grid_thw"])
        wanted = torch.cat([part[0] for part in (said.pooler_output, *getattr(said, "deepstack_features", ()))], -1)
        assert torch.allclose(source.encoder.module(pixels)[0], wanted, atol=1e-5)
    positions = source.positions()
    assert positions.rows[1:].tolist() == [[i // 8 for i in range(32)], [i % 8 for i in range(32)]]
    assert positions.advance == 8


def test_an_image_that_is_too_long_is_refused(folder):
    with pytest.raises(RequestError, match="--image-size: absolute aspect ratio"):
        open_source(str(folder), image_size=(16, 9000))


@pytest.mark.parametrize(
    ("name", "change", "why"),
    [
        ("preprocessor_config", {"min_pixels": 9000, "max_pixels": 9100}, "no square whose side is a multiple of 16"),
        ("preprocessor_config", {"min_pixels": 16, "max_pixels": 100}, "no square whose side is a multiple of 16"),
        ("preprocessor_config", {"patch_size": 14}, "patch_size of preprocessor_config.json is 14"),
        ("preprocessor_config", {"merge_size": 1}, "merge_size of preprocessor_config.json is 1"),
        ("preprocessor_config", {"max_pixels": "many"}, "max_pixels"),
        ("config", {"vision_config": {"patch_size": -8}}, "patch_size"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(folder, tmp_path, name, change, why):
    with pytest.raises(RequestError, match=why):
        open_source(str(copied(folder, tmp_path, **{name: change})))


def test_the_number_of_pixels_that_a_refusal_names_works(folder, tmp_path):
    narrow = copied(folder, tmp_path, preprocessor_config={"min_pixels": 9300, "max_pixels": 9400})
    with pytest.raises(RequestError) as refusal:
        open_source(str(narrow))
    assert "to 12544" in refusal.value.fix
    path = narrow / "preprocessor_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "max_pixels": 12544}))
    assert open_source(str(narrow)).preprocess.size == (112, 112)


@pytest.mark.parametrize(("window", "side"), [(32, 96), (50, 96), (64, 64)])
def test_images_are_a_whole_number_of_windows(folders, tmp_path, window, side):
    vision = json.loads((folders["Qwen2_5_VL"] / "config.json").read_text())["vision_config"]
    changes = {"vision_config": {**vision, "window_size": window}}
    limits = {"min_pixels": 3136, "max_pixels": 100 * 100}
    source = open_source(str(copied(folders["Qwen2_5_VL"], tmp_path, config=changes, preprocessor_config=limits)))
    assert source.preprocess.size == (side, side)
    assert source.encoder.module.windows == [(side // (window // 16 * 16)) ** 2, 1, (side // (window // 16 * 16)) ** 2]


@pytest.mark.parametrize(
    ("kind", "change", "why"),
    [
        ("Qwen2_5_VL", {"window_size": 12}, "window_size of config.json is 12 pixels, and a token is 16"),
        ("Qwen3VL", {"deepstack_visual_indexes": [0, 3]}, "the encoder has 3 layers"),
        ("Qwen3VL", {"deepstack_visual_indexes": [1, 1]}, "the encoder has 3 layers"),
    ],
)
def test_layers_and_windows_that_cannot_be_are_refused(folders, tmp_path, kind, change, why):
    vision = json.loads((folders[kind] / "config.json").read_text())["vision_config"]
    with pytest.raises(RequestError, match=why):
        open_source(str(copied(folders[kind], tmp_path, config={"vision_config": {**vision, **change}})))


def test_sliding_windows_are_refused(folder, tmp_path):
    text = json.loads((folder / "config.json").read_text())["text_config"]
    del text["layer_types"]
    sliding = {**text, "use_sliding_window": True, "sliding_window": 16, "max_window_layers": 1}
    with pytest.raises(RequestError, match="use_sliding_window"):
        open_source(str(copied(folder, tmp_path, config={"text_config": sliding})))


def test_between_layers_with_windows_no_token_may_go(folders, tmp_path):
    with pytest.raises(RequestError, match=r"its layers see windows.*missing between them.*--seam projector_output"):
        tokexport.export(
            str(folders["Qwen2_5_VL"]), tmp_path / "b", method="tome", keep=72, seam="encoder_layer:0", rebuild=True
        )


@pytest.mark.slow
def test_features_of_an_early_layer_are_rebuilt_with_those_of_the_last(folders, tmp_path):
    done = tokexport.export(
        str(folders["Qwen3VL"]), tmp_path / "b", method="tome", keep=72, seam="encoder_layer:0", rebuild=True
    )
    assert len(done.compression[0]["rebuilt"]["tensors"]) > 1
    assert all(check["ok"] for check in done.proof["checks"])
