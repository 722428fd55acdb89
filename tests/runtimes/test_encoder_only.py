"""`run` and `show` on a bundle whose source gave only its encoder, as of a checkpoint; and on one that answers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tokexport
from click.testing import CliRunner, Result
from PIL import Image
from tokexport.errors import RequestError
from tokexport.exporter.cli import main
from tokexport.runtimes.bundle.manifest import SourceRecord
from tokexport.runtimes.bundle.writer import BundleWriter
from toy_bundle import ENCODER, WORDS, fill, model, record, variant, write


def encoder_only(out: Path, encoder: str = ENCODER) -> Path:
    """A bundle of a checkpoint: four tokens, 2 x 2, of which positions 1 and 3 are kept, with sizes 3 and 1."""
    with BundleWriter(out) as writer:
        made = fill(writer)
    with BundleWriter(out) as writer:
        writer.add_model("encoder.onnx", model(encoder))
        writer.add_json("processor/words.json", WORDS.to_json())
        one = variant({"encoder": record(model(encoder), "encoder.onnx")})
        one.generation = None
        one.compression[0].seam.grid = [2, 2]
        source = SourceRecord(kind="checkpoint", name="llava")
        return writer.commit(made.model_copy(update={"source": source, "variants": [one]}))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Image.fromarray(np.full((8, 8, 3), 200, np.uint8)).save("mine.png")
    return tmp_path


def typed(*arguments: str, code: int = 0) -> Result:
    done = CliRunner().invoke(main, list(arguments))
    assert done.exit_code == code, done.output
    return done


def test_run_encodes_and_shows_the_tokens_kept(here: Path) -> None:
    encoder_only(here / "b")
    said = typed("run", "b", "--image", "mine.png").stdout
    assert "4 tokens became 2" in said and "1(3) 3" in said and "tokexport show b --image mine.png" in said
    data = json.loads(typed("run", "b", "--image", "mine.png", "--json").stdout)
    assert data["kept_indices"] == [1, 3] and data["sizes"] == [3.0, 1.0] and data["shape"] == [1, 2, 1]


def test_a_question_that_nobody_can_answer_is_a_note(here: Path) -> None:
    encoder_only(here / "b")
    assert "the question is not asked" in typed("run", "b", "--image", "mine.png", "--prompt", "a ?").stderr


def test_generate_names_a_cure_that_works_for_a_checkpoint(here: Path) -> None:
    with pytest.raises(RequestError, match=r"no language graphs.*of this one run the encoder, `session.encode`"):
        tokexport.load(encoder_only(here / "b")).generate("mine.png", "a")


@pytest.mark.parametrize(
    ("name", "asks"), [("tiny-video", "which object moved first ?"), ("llava", "What is in the picture?")]
)
def test_the_example_question_is_one_of_the_model(here: Path, name: str, asks: str) -> None:
    with BundleWriter(here / "b") as writer:
        made = fill(writer)
        writer.commit(made.model_copy(update={"source": SourceRecord(kind="checkpoint", name=name)}))
    assert f"--prompt '{asks}'" in typed("run", "b", "--image", "mine.png", code=2).stderr


def test_show_draws_the_tokens_over_the_users_own_picture(here: Path) -> None:
    encoder_only(here / "b")
    said = typed("show", "b", "--image", "mine.png", "-o", "kept.png").stdout
    assert said.splitlines()[-1] == "kept.png" and "4 tokens become 2" in said
    drawn = np.asarray(Image.open("kept.png")).astype(int)
    before, after = drawn[50:130, 16:96], drawn[50:130, 112:192]
    assert np.all(abs(before - 200) < 2)
    lit, tinted = after[30, 10], after[10, 10]
    assert abs(after[60, 70] - 200).max() < 2, "position 3 is kept as it is"
    assert abs(tinted - 200).max() > 20 and lit.shape == (3,), "position 0 was merged into slot 0, and has its colour"


def test_what_was_dropped_is_dark(here: Path) -> None:
    encoder_only(here / "b", ENCODER.replace("{0, 0, 0, 1}", "{-1, 0, 0, 1}"))
    typed("show", "b", "--image", "mine.png", "-o", "kept.png")
    assert np.asarray(Image.open("kept.png"))[60, 122].max() < 60


def test_show_draws_several_bundles_into_an_svg_file(here: Path) -> None:
    for name in ("b", "c"):
        encoder_only(here / name)
    typed("show", "b", "c", "--image", "mine.png", "-o", "kept.svg")
    assert (here / "kept.svg").read_text().count("2 of 4 tokens") >= 2
    assert "kept.svg" in typed("show", "b", "c", "--image", "mine.png", code=2).stderr


def test_show_refuses_what_it_cannot_draw(here: Path) -> None:
    write(here / "b")
    assert "grid" in typed("show", "b", "--image", "mine.png", code=2).stderr
    assert "-o kept.png" in typed("show", "b", "--image", "mine.png", "-o", "kept.jpg", code=2).stderr
    assert "none of" in typed("show", "b", code=2).stderr
