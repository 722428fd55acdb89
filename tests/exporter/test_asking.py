"""`tokexport run` and `show` on bundles made by hand: how a question is given, and what each bundle takes."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from PIL import Image
from tokexport.exporter.cli import main

sys.path.insert(0, str(Path(__file__).parents[1] / "runtimes"))

import toy_bundle
import toy_speech

pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that reads words, the same without its vocabulary, a recogniser, and a picture."""
    made = tmp_path_factory.mktemp("asking")
    toy_bundle.write(made / "words")
    toy_bundle.write(made / "ids")
    manifest = json.loads((made / "ids/manifest.json").read_text())
    manifest["processor"] = {"kind": "none"}
    (made / "ids/manifest.json").write_text(json.dumps(manifest))
    toy_speech.write(made / "speech", (10,))
    Image.new("RGB", (9, 5), "red").save(made / "a.png")
    return made


def typed(folder: Path, command: str, *arguments: str, code: int = 0) -> Result:
    files = [str(folder / one) if (folder / one).exists() else one for one in arguments]
    done = CliRunner().invoke(main, [command, *files])
    assert done.exit_code == code, done.output
    return done


ASK = ("--image", "a.png")


def test_a_question_as_ids_is_that_question(folder: Path) -> None:
    said = json.loads(typed(folder, "run", "words", *ASK, "--prompt", "b a", "--json").stdout)
    ids = toy_bundle.WORDS.prompt("b a")
    for bundle in ("words", "ids"):
        asked = typed(folder, "run", bundle, *ASK, "--prompt-ids", ",".join(map(str, ids)), "--json")
        assert json.loads(asked.stdout)["ids"] == said["ids"]


def test_the_cure_for_a_bundle_without_a_tokenizer_is_an_option_that_works(folder: Path) -> None:
    for prompt in ((), ("--prompt", "b a")):
        assert "--prompt-ids 1," in typed(folder, "run", "ids", *ASK, *prompt, code=2).stderr
    typed(folder, "run", "ids", *ASK, "--prompt-ids", "1,2")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--prompt-ids", "1,a"), "are no ids"),
        (("--prompt-ids", "1,,2"), "are no ids"),
        (("--prompt-ids", ""), "are no ids"),
        (("--prompt-ids", "١"), "are no ids"),
        (("--prompt-ids", "1,99"), "outside the vocabulary"),
        (("--prompt-ids", "1", "--prompt", "b"), "Give one of them"),
    ],
)
def test_what_is_no_list_of_ids_is_refused(folder: Path, arguments: tuple[str, ...], says: str) -> None:
    assert says in typed(folder, "run", "words", *ASK, *arguments, code=2).stderr


def test_a_picture_for_a_recogniser_is_answered_with_the_right_option(folder: Path, tmp_path: Path) -> None:
    for command, more in (("run", ()), ("show", ("-o", str(tmp_path / "kept.png")))):
        said = typed(folder, command, "speech", *ASK, *more, code=2).stderr
        assert "takes sound, not images" in said and "--audio" in said
    said = typed(folder, "show", "words", "speech", *ASK, "-o", str(tmp_path / "kept.svg"), code=2).stderr
    assert "takes sound, not images" in said and not list(tmp_path.iterdir())


def test_a_variant_is_named_by_its_ratio(folder: Path) -> None:
    typed(folder, "run", "words", *ASK, "--prompt", "b", "--variant", "0.5")
    assert "Known variants: toy-0.5." in typed(folder, "run", "words", *ASK, "--variant", "0.75", code=2).stderr
