"""Encoders of a recogniser for shorter sounds, in one bundle over one copy of the weights."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
from tokexport.errors import RequestError
from tokexport.exporter.opening import open_source
from tokexport.exporter.pipeline import export
from tokexport.runtimes.bundle.reader import open_bundle
from tokexport.runtimes.load import load

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")


def test_the_shorter_encoder_is_the_model_with_its_positions_cut(tiny_whisper_folder: Path) -> None:
    whole = open_source(str(tiny_whisper_folder))
    short = whole.windowed(1)
    own, cut = whole.encoder.module.encoder, short.encoder.module.encoder
    assert short.encoder.grid == (50,) and short.preprocess.frames == 100 and short.window == 1
    assert cut.layers is own.layers and cut.conv1.weight is own.conv1.weight

    config = copy.deepcopy(own.config)
    config.max_source_positions = 50
    wanted = type(own)(config).eval()
    state = own.state_dict()
    state["embed_positions.weight"] = state["embed_positions.weight"][:50]
    wanted.load_state_dict(state)
    mel = torch.randn(1, config.num_mel_bins, 100, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(short.encoder.module(mel), wanted(mel).last_hidden_state)
        # The whole one still takes its own length.
        assert whole.encoder.module(torch.zeros(1, config.num_mel_bins, 200)).shape[1] == 100


def test_each_window_is_a_variant_over_one_copy_of_the_weights(tiny_whisper_folder: Path, tmp_path: Path) -> None:
    settings = {"method": "uniform", "verify": False}
    one = export(str(tiny_whisper_folder), tmp_path / "one", ratio="0.8", **settings).bundle
    export(str(tiny_whisper_folder), tmp_path / "w", ratio="0.8", window=[1, 2], **settings)
    bundle = open_bundle(tmp_path / "w")
    names = [variant.name for variant in bundle.manifest.variants]
    assert names == ["uniform-0.8-1s", "uniform-0.8-2s"]
    short, long = (bundle.variant(name) for name in ("uniform-0.8-1s", "uniform-0.8-2s"))
    assert [one.compression[0].tokens_out for one in (short, long)] == [10, 20]
    assert [one.preprocess.frames for one in (short, long)] == [100, 200]
    assert [one.generation.tokens_in for one in (short, long)] == [50, 100]
    assert [one.graphs["encoder"].inputs["input_features"].shape[2] for one in (short, long)] == [100, 200]

    table = 50 * 32 * 4
    for data in ("encoder.onnx.data", "language.onnx.data"):
        added = (tmp_path / "w" / data).stat().st_size - (one / data).stat().st_size
        assert added <= 3 * table, data


def test_a_bundle_of_one_short_window_knows_that_it_is_short(tiny_whisper_folder: Path, tmp_path: Path) -> None:
    export(str(tiny_whisper_folder), tmp_path / "w", method="uniform", ratio="0.5", window=1, verify=False)
    session = load(tmp_path / "w", threads=1)
    assert session.bundle.manifest.preprocess.frames == 200 and session.preprocess.frames == 100
    sound = np.random.default_rng(0).uniform(-0.1, 0.1, 16000).astype(np.float32)
    pieces = session.generate(sound, max_new_tokens=1).pieces
    # Speech would fill it: half of it stays silent.
    assert len(pieces) > 1 and all(piece.end - piece.start <= 0.5 for piece in pieces)


@pytest.mark.parametrize(
    "window, said",
    [
        (0.5, r"window of 0\.5 s is too short: tiny-whisper was trained on 2 s.*--window from 0\.68 to 2\."),
        (2.5, r"window of 2\.5 s is longer than its own.*from 0\.68"),
        (1.01, r"window of 1\.01 s is 101 frames, and every two of them are one token.*multiple of 0\.02 s"),
        ([1, 2, 1.0], r"--window 1 was given twice"),
    ],
)
def test_what_is_no_window_is_refused(tiny_whisper_folder: Path, window: object, said: str, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=said):
        export(str(tiny_whisper_folder), tmp_path / "w", method="uniform", ratio="0.5", window=window, verify=False)  # type: ignore[arg-type]


def test_a_model_of_pictures_has_no_window(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"tiny-vlm has no window of sound.*Leave --window out"):
        export(None, tmp_path / "w", method="uniform", ratio="0.5", window=1, verify=False)
