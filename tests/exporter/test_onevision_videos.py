"""Videos of a LLaVA-OneVision folder whole: the tokens and answers of transformers, and the token that ends a video."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_tiles
import tokexport
from click.testing import CliRunner
from tokexport.errors import RequestError
from tokexport.exporter.cli import main
from tokexport.exporter.opening import open_source
from tokexport.exporter.sources.clip import Clip

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

QUESTION = "What is in w17 w18 ?"
IMAGE, VIDEO = tiny_tiles.VOCABULARY - 1, tiny_tiles.VIDEO


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of frames of 3 x 3 patches, which are pooled to 2 x 2 tokens."""
    return tiny_tiles.llava_onevision(tmp_path_factory.mktemp("checkpoints") / "onevision", patch=8)


@pytest.fixture(scope="module")
def model(folder: Path) -> Any:
    import transformers

    return transformers.AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)


@pytest.fixture(scope="module")
def exported(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tokexport.Exported:
    """Of videos of five frames, by a method that sees their time; and of all tokens."""
    lengths = {"prompt_length": 24, "answer_length": 16}
    out = tmp_path_factory.mktemp("bundles") / "b"
    return tokexport.export(str(folder), out, method="evs", keep=[20, 10], frames=5, **lengths)


def drawn(number: int, frames: int = 5) -> np.ndarray:
    few = np.random.default_rng(number).integers(0, 255, (frames, 4, 4, 3), dtype=np.uint8)
    return np.ascontiguousarray(few.repeat(9, 1).repeat(9, 2))


def test_the_encoder_gives_the_tokens_of_transformers_without_the_last(folder, model):
    source = open_source(str(folder), clip=Clip(5))
    pixels = torch.from_numpy(source.real_inputs(1)[0]["pixel_values"])
    with torch.no_grad():
        given = {"vision_feature_layer": -1, "vision_feature_select_strategy": "full"}
        wanted = model.model.get_video_features(pixels, **given).pooler_output[0]
        found = source.encoder.module(pixels)[0]
    assert pixels.shape == (1, 5, 3, 24, 24) and source.encoder.grid == (5, 2, 2) and len(wanted) == 21
    assert torch.allclose(found, wanted[:-1], atol=1e-5) and wanted.std(0).min() > 0.01
    assert torch.equal(source.ends, wanted[-1]) and source.positions().advance == 20


@pytest.mark.slow
@pytest.mark.parametrize("number", range(2))
def test_without_compression_it_answers_as_transformers_does(folder, model, exported, number):
    import transformers
    from tokexport.runtimes.media.video import clip_values

    session, tokenizer = tokexport.load(exported.bundle), transformers.PreTrainedTokenizerFast.from_pretrained(folder)
    ids = tokenizer(f"USER: {'<video>' * 21}\n{QUESTION} ASSISTANT:", return_tensors="pt")["input_ids"]
    assert (ids == VIDEO).sum() == 21
    said = model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        pixel_values_videos=torch.from_numpy(clip_values(drawn(number), session.preprocess)),
        max_new_tokens=16,
        do_sample=False,
    )[0, ids.shape[1] :].tolist()
    assert len(set(said)) > 1
    assert session.generate(drawn(number), QUESTION).ids == [i for i in said if i != 2]


@pytest.mark.slow
def test_all_parts_and_the_answers_are_proved_and_the_end_of_the_video_is_a_word(exported):
    for one in (exported.to_json(), *exported.to_json()["further"]):
        checks = {check["part"]: check for check in one["proof"]["checks"]}
        assert {"compressor", "embed", "prefill", "decode", "generation"} <= checks.keys()
        assert all(check["ok"] for check in checks.values())
    manifest = json.loads((exported.bundle / "manifest.json").read_text())
    fewer, said = manifest["variants"][1], manifest["variants"][0]["generation"]
    assert fewer["compression"][0]["seam"]["grid"] == [5, 2, 2]
    assert said["prompt"]["before"].endswith("<video><image>\n") and said["prompt"]["image"] == VIDEO
    session = tokexport.load(exported.bundle)
    ids = session.ids(QUESTION)
    assert ids[said["image_span"][0]] == IMAGE
    # Without it, or with another word there, the model reads something else.
    whole = session.generate(drawn(0), QUESTION)
    other = session.generate(drawn(0), [i if i != IMAGE else 17 for i in ids])
    assert whole.ids == session.generate(drawn(0), ids).ids != other.ids


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (("--image-size", "48x48"), "takes one"),
        (("--seam", "encoder_output"), "it pools the tokens of each frame"),
        (("--seam", "encoder_layer:0"), "its layers see each frame by itself"),
    ],
)
def test_what_cannot_be_is_refused(folder, tmp_path, given, says):
    asked = ("model", str(folder), "--frames", "5", "--method", "uniform", "--keep", "9", "-o", str(tmp_path / "b"))
    result = CliRunner().invoke(main, [*asked, *given])
    assert result.exit_code == 2 and says in " ".join(result.stderr.split()) and not (tmp_path / "b").exists()


def test_a_tokenizer_with_another_id_for_an_image_is_refused(tmp_path):
    path = tiny_tiles.llava_onevision(tmp_path / "folder") / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "image_token_index": 17}))
    with pytest.raises(RequestError, match="17 is the id of an image, and the tokenizer reads <image> as another"):
        open_source(str(path.parent), parts="all", clip=Clip(4))
