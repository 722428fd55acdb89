"""LLaVA folders whole: the command, the answers of transformers, how a question is asked, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_checkpoints
import tokexport
from click.testing import CliRunner
from tokexport.errors import RequestError
from tokexport.exporter.cli import main
from tokexport.exporter.evaluate.question_set import prompts_of
from tokexport.exporter.families.multimodal import Multimodal
from tokexport.exporter.opening import open_source
from tokexport.exporter.proof import encoder_probes, parity

pytest.importorskip("transformers")

QUESTION = "What is in w17 w18 ?"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoints.whole_llava(tmp_path_factory.mktemp("checkpoints") / "tiny-llava")


@pytest.fixture(scope="module")
def proved() -> list[str]:
    """What the export of `made` did, in its order."""
    return []


@pytest.fixture(scope="module")
def made(folder: Path, proved: list[str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the command says of a quarter of the 36 tokens and of all, which the folder's own model must answer too."""

    def told(function: Any) -> Any:
        return lambda *given: proved.append(function.__name__) or function(*given)

    out = tmp_path_factory.mktemp("bundles") / "b"
    lengths = ("--prompt-length", "24", "--answer-length", "20")
    asked = ["--method", "kcenter_merge", "--keep", "9", "--keep", "36", *lengths, "-o", str(out), "--json"]
    with pytest.MonkeyPatch.context() as patched:
        for where, name in (
            (Multimodal, "let_go"),
            (encoder_probes, "encoder_probes"),
            (parity, "language_probes"),
            (parity, "check"),
        ):
            patched.setattr(where, name, told(getattr(where, name)))
        return {**json.loads(command(["model", str(folder), *asked])), "out": out}


@pytest.fixture(scope="module")
def bundle(made: dict[str, Any]) -> Path:
    return made["out"]


@pytest.mark.usefixtures("bundle")
def test_the_language_model_is_in_memory_only_while_pytorch_runs_it(proved):
    """Of a large model it is most of the weights, and a runtime has its own copy."""
    assert proved == ["let_go", "encoder_probes", "language_probes", "let_go", "check"] * 2


def test_what_is_let_go_holds_no_weights(folder):
    """Whatever still holds these modules, for good or until Python looks for cycles, holds none of their weights."""
    source = open_source(str(folder), parts="all")
    modules = source.decoder.model, source.decoder.head, source.reference.model
    held = [weight for module in modules for weight in module.parameters()]
    assert sum(weight.numel() for weight in held) > 10_000
    source.let_go()
    assert not sum(weight.numel() for weight in held)


def command(arguments: list[str], code: int = 0) -> str:
    """What the command prints on stdout, or of a failure on stderr."""
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == code, result.output
    return " ".join((result.stderr if code else result.stdout).split())


def copied(folder: Path, tmp_path: Path, **changes: Any) -> Path:
    """The folder with other values in its JSON files, by name of the file without its end."""
    made = shutil.copytree(folder, tmp_path / "copy")
    for name, change in changes.items():
        path = made / f"{name}.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    return made


def asked(folder: Path, question: str) -> list[int]:
    """The ids that transformers makes of a question about one image, with one placeholder."""
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    content = [{"type": "image"}, {"type": "text", "text": question}]
    turn = [{"role": "user", "content": content}]
    return tokenizer(tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True))["input_ids"]


@pytest.mark.parametrize("number", range(3))
def test_without_compression_it_answers_as_transformers_does(folder, bundle, number):
    import torch
    import transformers

    pixels = open_source(str(folder)).real_inputs(3)[number]["pixel_values"]
    ids = asked(folder, QUESTION)
    place = ids.index(95)
    whole = [*ids[:place], *[95] * 36, *ids[place + 1 :]]
    model = transformers.LlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    said = model.generate(
        input_ids=torch.tensor([whole]),
        pixel_values=torch.from_numpy(pixels),
        attention_mask=torch.ones(1, len(whole), dtype=torch.long),
        max_new_tokens=20,
        do_sample=False,
    )[0, len(whole) :].tolist()
    assert len(set(said)) > 1
    session = tokexport.load(bundle, variant="kcenter_merge-keep36")
    assert session.generate(pixels, QUESTION).ids == [i for i in said if i != 2]


def test_a_question_is_asked_as_the_chat_template_asks_it(folder, bundle):
    session = tokexport.load(bundle)
    ids = asked(folder, QUESTION)
    assert ids.index(95) == session.variant.generation.image_span[0]
    assert session.ids(QUESTION) == [i for i in ids if i != 95]


def test_a_special_token_in_a_question_is_refused(bundle):
    with pytest.raises(RequestError, match="<image>, which is no text"):
        tokexport.load(bundle).ids("What is <image> ?")


def test_the_command_proves_what_it_says_against_transformers(made, bundle):
    data = made
    checks = {check["part"]: check for check in data["proof"]["checks"]}
    assert {"embed", "prefill", "decode", "generation"} <= checks.keys() and data["compression"][0]["size_bias"]
    assert checks["generation"]["ok"] and "tokens of 3 answers compared" in checks["generation"]["detail"]
    picture = np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8)
    said = tokexport.load(bundle).generate(picture, QUESTION)
    assert 1 <= len(said.ids) <= 20 and said.text


def test_wrong_positions_change_the_answer(folder, bundle):
    """The proof would see it: the folder's model reads its tokens where they stood."""
    session = tokexport.load(bundle, variant="kcenter_merge-keep9")
    encoded = session.encode(open_source(str(folder)).real_inputs(1)[0]["pixel_values"])
    source = open_source(str(folder), parts="all")
    own = source.own_answer(encoded, np.zeros((1, 9), np.float32), 20)
    moved = source.own_answer({**encoded, "kept_indices": np.arange(9)[None]}, np.zeros((1, 9), np.float32), 20)
    assert np.abs(own.scores[0] - moved.scores[0]).max() > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["qwen3", "gemma2"])
def test_other_language_models(kind, tmp_path):
    folder = tiny_checkpoints.whole_llava(tmp_path / kind, kind=kind)
    made = tokexport.export(
        str(folder), tmp_path / "b", method="kcenter_merge", keep=9, prompt_length=16, answer_length=12
    )
    assert made.proof["checks"][-1]["part"] == "generation" and made.proof["checks"][-1]["ok"]


def refused(folder: Path, tmp_path: Path, *arguments: str) -> str:
    asked = ["model", str(folder), "--method", "topk", "--keep", "9", "-o", str(tmp_path / "b"), *arguments]
    said = command(asked, code=2)
    assert not (tmp_path / "b").exists()
    return said


def test_a_folder_without_a_tokenizer_is_refused(folder, tmp_path):
    bare = copied(folder, tmp_path)
    (bare / "tokenizer.json").unlink()
    assert "--parts encoder" in refused(bare, tmp_path)


def test_a_question_longer_than_the_graphs_is_refused_with_a_length_that_works(folder, tmp_path):
    assert "Give --prompt-length 16" in refused(folder, tmp_path, "--prompt-length", "6")


def test_more_positions_than_the_model_has_are_refused(folder, tmp_path):
    text = json.loads((folder / "config.json").read_text())["text_config"]
    short = copied(folder, tmp_path, config={"text_config": {**text, "max_position_embeddings": 100}})
    assert "max_position_embeddings of config.json is 100" in refused(short, tmp_path)


def test_lengths_of_a_model_without_language_graphs_are_refused(folder, tmp_path):
    assert "Leave them out" in refused(folder, tmp_path, "--parts", "encoder", "--answer-length", "5")
    assert "--answer-length 0" in refused(folder, tmp_path, "--answer-length", "0")


def test_a_model_that_never_ends_is_refused(folder, tmp_path):
    text = json.loads((folder / "config.json").read_text())["text_config"]
    endless = copied(folder, tmp_path, config={"text_config": {**text, "eos_token_id": None}})
    (endless / "generation_config.json").unlink(missing_ok=True)
    assert "no answer would end" in refused(endless, tmp_path)


@pytest.mark.parametrize(
    ("template", "why"),
    [
        ("{{ raise_exception('no') }}", "the chat template fails"),
        ("{% for i in range(9)", "the chat template fails"),
        ("{{ ''.__class__.__mro__ }}", "the chat template fails"),
        ("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}", "more than 5 s"),
        ("{% for i in range(99999) %}{{ 'x' * 99999 }}{% endfor %}", "more than 2 GiB"),
    ],
)
def test_a_template_that_fails_is_named(folder, tmp_path, template, why):
    broken = copied(folder, tmp_path, tokenizer_config={"chat_template": template})
    assert why in refused(broken, tmp_path)


@pytest.mark.parametrize(
    ("template", "why"),
    [
        (None, "the folder has no chat template"),
        ("{{ messages[0]['content'][1]['text'] | upper }}", "changes the question"),
        ("{{ messages[0]['content'][1]['text'] }}", "does not put one <image>"),
    ],
)
def test_without_a_template_prompts_are_ids(folder, tmp_path, template, why):
    source = open_source(str(copied(folder, tmp_path, tokenizer_config={"chat_template": template})), parts="all")
    assert any(why in note for note in source.notes) and source.generation(9).prompt is None


def test_a_template_that_strips_is_followed(folder, tmp_path):
    template = tiny_checkpoints.CHAT.replace("part['text'] +", "(part['text'] | trim) +")
    source = open_source(str(copied(folder, tmp_path, tokenizer_config={"chat_template": template})), parts="all")
    assert source.asked.strips and not open_source(str(folder), parts="all").asked.strips


@pytest.mark.parametrize("image", [-1, 10_000])
def test_an_id_of_the_image_that_the_model_lacks_is_refused(folder, tmp_path, image):
    said = refused(copied(folder, tmp_path, config={"image_token_index": image}), tmp_path)
    assert f"says that {image} is the id of an image, and its vocab_size is" in said


def test_an_id_of_the_image_that_the_tokenizer_reads_as_another_word_is_refused(folder, tmp_path):
    said = refused(copied(folder, tmp_path, config={"image_token_index": 3}), tmp_path)
    assert "'<pad>'" in said and "'<image>'" in said and "--parts encoder" in said


def test_what_a_greedy_answer_does_without_is_named(folder, tmp_path):
    odd = {"repetition_penalty": 1.3, "num_beams": 1, "do_sample": True, "bad_words_ids": [[3]], "min_length": 0}
    path = copied(folder, tmp_path, generation_config=odd)
    (note,) = [note for note in open_source(str(path), parts="all").notes if "generation_config.json" in note]
    assert "asks for do_sample=true, repetition_penalty=1.3, bad_words_ids=[[3]]:" in note
    assert not any("generation_config" in note for note in open_source(str(folder), parts="all").notes)


def test_a_bundle_that_does_not_know_how_to_ask_takes_ids_alone(folder, tmp_path):
    from PIL import Image

    mute = copied(folder, tmp_path, tokenizer_config={"chat_template": None})
    out = str(tmp_path / "mute")
    tokexport.export(str(mute), out, method="uniform", keep=9, prompt_length=24, answer_length=4, verify=False)
    Image.new("RGB", (84, 84), "red").save(tmp_path / "a.png")
    run = ["run", out, "--image", str(tmp_path / "a.png")]
    assert "--prompt-ids 1,15043" in command([*run, "--prompt", "What is in w17 ?"], code=2)
    command([*run, "--prompt-ids", "1,5,6"])
    sweep = ["sweep", str(mute), "--inputs", str(tmp_path), "--ratio", "0.5", "-o", str(tmp_path / "s")]
    assert "Add --parts encoder" in command([*sweep, "--prompt", "What ?"], code=2)


def test_a_sweep_asks_the_question_that_was_given(folder):
    source = open_source(str(folder), parts="all")
    first, second, again = prompts_of(source, [QUESTION, "What is this ?", QUESTION])
    assert first == again != second
    assert first == [i for i in asked(folder, QUESTION) if i != source.placeholder]


def test_the_language_model_is_not_in_memory_while_its_graphs_are_proved(folder, tmp_path, monkeypatch):
    from tokexport.exporter.proof import generation, parity

    kept, bytes_held = [], []
    own, check = generation.answer_probes, parity.check

    def answers(source: Any, *rest: Any) -> Any:
        kept.extend(source.decoder.model.parameters())
        return own(source, *rest)

    def checked(*given: Any) -> Any:
        bytes_held.append(sum(one.nbytes for one in kept))
        return check(*given)

    monkeypatch.setattr(generation, "answer_probes", answers)
    monkeypatch.setattr("tokexport.exporter.proof.parity.check", checked)
    tokexport.export(str(folder), tmp_path / "x", method="uniform", keep=9, prompt_length=24, answer_length=2)
    assert kept
    assert bytes_held == [0]
