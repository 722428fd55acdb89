"""`tokexport bench`: what is timed of which bundle, in turns, and when it fails; by the real command line."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tokexport
import toy_bundle
import toy_speech
from click.testing import CliRunner, Result
from PIL import Image
from tokexport.errors import GraphError, RequestError
from tokexport.exporter.cli import main
from tokexport.exporter.speed import bench as speed
from tokexport.exporter.speed.sample import Proven, sample
from tokexport.exporter.speed.side import Side
from tokexport.exporter.speed.stages import Stages
from tokexport.runtimes.load import load

pytest.importorskip("onnxruntime")
# The same answers behind work of some milliseconds.
SLOW = toy_bundle.ENCODER.replace(
    "int64[3] shape = {1, 2, 1}>", "int64[3] shape = {1, 2, 1}, int64[2] square = {400, 400}>"
).replace(
    "  tokens = Expand (scaled, shape)",
    """  wide = Expand (scaled, square)
  once = MatMul (wide, wide)
  twice = MatMul (once, wide)
  thrice = MatMul (twice, wide)
  none = ReduceSum <keepdims = 0> (thrice)
  still = Add (scaled, none)
  tokens = Expand (still, shape)""",
)


def typed(*arguments: object, code: int = 0) -> Result:
    done = CliRunner().invoke(main, ["bench", *map(str, arguments), "-q"], env={"COLUMNS": "300"})
    assert done.exit_code == code, done.output
    return done


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy_bundle.write(tmp_path_factory.mktemp("bench") / "toy")


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy_bundle.write(tmp_path_factory.mktemp("bench") / "slow", encoder=SLOW)


class Fake:
    """A side that says what a test wants, and notes its turns."""

    turns: list[str]
    times: dict[str, list[dict[str, Any]]]

    def __init__(self, path: Path, variant: str, request: dict[str, Any], counters: object) -> None:
        self.path, self.variant, self.cpu, self.peak, self.gpu, self.notes = (
            path,
            variant,
            0.0,
            10**6,
            None,
            list[str](),
        )
        self.opened = {"input": "x", "notes": [], "most": 4, "stages": [*self.times[path.name][0]]}
        self._left = iter(self.times[path.name])

    def once(self) -> dict[str, Any]:
        self.turns.append(self.path.name)
        return {**next(self._left), "joules": {}}

    def close(self) -> None:
        self.turns.append(f"end of {self.path.name}")


@pytest.fixture
def faked(monkeypatch: pytest.MonkeyPatch) -> type[Fake]:
    Fake.turns = []
    monkeypatch.setattr(speed, "Side", Fake)
    monkeypatch.setattr(speed, "open_bundle", lambda path: SimpleNamespace(variant=lambda: SimpleNamespace(name="v")))
    monkeypatch.setattr(speed, "window_of", lambda bundle, variant, files: variant)
    monkeypatch.setattr(speed, "of_proof", lambda bundle, variant: Proven({}))
    return Fake


def test_every_stage_of_a_bundle_is_timed_and_what_it_lacks_is_named(folder: Path) -> None:
    data = json.loads(typed(folder, "--rounds", 6, "--tokens", "1,3,20", "--threads", 1, "--json").stdout)
    (one,) = data["bundles"]
    assert list(one["stages"]) == ["encoder", "prefill", "first_token", "token", "answer_3"]
    assert one["left_out"] == {"answer_20": "its answers have at most 4 tokens"}
    for name, found in one["stages"].items():
        assert found["samples"] == (6 * 3 if name == "token" else 6), name
        assert 0 < found["p50_ms"] <= found["p90_ms"] <= found["p99_ms"]
    assert one["stages"]["answer_3"]["p50_ms"] > one["stages"]["first_token"]["p50_ms"] > 0
    assert one["stages"]["first_token"]["p50_ms"] > one["stages"]["encoder"]["p50_ms"]
    assert 2 * 10**7 < one["host_peak_bytes"] < 10**9
    assert one["unknown"]["device memory"] == "none: it runs on the CPU" and one["device_peak_bytes"] is None
    assert data["ratios"] == {} and data["ok"] and data["threads"] == 1 and data["machine"]["cores"]
    assert "random" in one["input"] and any("random" in note for note in one["notes"])


def test_a_slower_bundle_fails_the_gate_and_a_faster_one_does_not(folder: Path, slow: Path) -> None:
    gate = ("--rounds", 8, "--tokens", "2", "--threads", 1, "--max-regression", "5%")
    said = typed(slow, "--against", folder, *gate, "--stage", "encoder", "--stage", "first_token", code=1).stdout
    assert "SLOWER: encoder, first token surely take more than 5.0% longer than" in said
    data = json.loads(typed(folder, "--against", slow, *gate, "--stage", "encoder", "--json").stdout)
    ratio = data["ratios"]["encoder"]
    assert ratio["low"] <= ratio["median"] <= ratio["high"] < 1
    assert [one["bundle"] for one in data["bundles"]] == [str(folder), str(slow)] and data["slower"] == []


def test_they_take_turns_and_pairs_of_a_round_are_compared(faked: type[Fake]) -> None:
    # The machine gets slower and slower, both alike: a pair says 1.1 all the same.
    drift = [float(2**n) for n in range(8)]
    faked.times = {"a": [{"encoder": ms} for ms in drift], "b": [{"encoder": 1.1 * ms} for ms in drift]}
    for most, slower in ((0.05, ["encoder"]), (0.15, [])):
        faked.turns = []
        data = speed.bench("b", "a", rounds=6, warmup=2, max_regression=most)
        assert data["ratios"]["encoder"]["low"] == pytest.approx(1.1) == data["ratios"]["encoder"]["high"]
        assert data["slower"] == slower and data["ok"] is not bool(slower)
        assert faked.turns == ["a", "a", "b", "b", *["a", "b"] * 6, "end of b", "end of a"]


def test_what_is_not_sure_fails_nothing(faked: type[Fake]) -> None:
    faked.times = {"a": [{"encoder": 1.0}] * 8, "b": [{"encoder": ms} for ms in (1, 1, 1.3, 1.3, 1.3, 1.3, 1.3, 0.9)]}
    data = speed.bench("b", "a", rounds=6, warmup=2, max_regression=0.05)
    assert data["ratios"]["encoder"] == {"median": 1.3, "low": 0.9, "high": 1.3} and data["ok"]


def test_a_bundle_without_language_graphs_has_an_encoder_alone(tmp_path: Path) -> None:
    writer_folder = toy_bundle.write(tmp_path / "toy")
    manifest = json.loads((writer_folder / "manifest.json").read_text())
    manifest["variants"][0]["graphs"] = {"encoder": manifest["variants"][0]["graphs"]["encoder"]}
    manifest["variants"][0]["generation"] = None
    (writer_folder / "manifest.json").write_text(json.dumps(manifest))
    said = typed(writer_folder, "--rounds", 2, "--prompt", "a").stdout
    assert "not measured: prefill, first token, per token, answer of 20 tokens, answer of 100 tokens: " in said
    assert "the bundle has no language graphs, so the question is not asked" in said


def test_what_it_is_given_is_the_users_or_the_proofs_or_random(folder: Path, tmp_path: Path) -> None:
    Image.new("RGB", (9, 5), "red").save(tmp_path / "red.png")
    session = load(folder, threads=1)
    own = sample(session, [str(tmp_path / "red.png")], "b a", Proven({}))
    assert own.ids == [1, 4, 3] and own.said == "red.png, 'b a'" and own.notes == ()
    assert np.array_equal(own.media[0]["pixel_values"][0, 1:], np.full((2, 4, 4), -1, np.float32))
    kept = np.full((1, 3, 4, 4), 7, np.float32)
    proven = sample(session, [], None, Proven({"pixel_values": kept}, [1, 5]))
    assert proven.ids == [1, 5] and proven.said == "that of its proof" and proven.media[0]["pixel_values"] is kept
    blank = sample(session, [], None, Proven({}))
    assert blank.ids == [1] and blank.said == "random, a blank prompt" and "random" in blank.notes[0]
    assert sample(session, [], [1, 3], Proven({})).ids == [1, 3]
    with pytest.raises(RequestError, match="2 inputs are given"):
        sample(session, ["a.png", "b.png"], "a", Proven({}))


def test_an_answer_is_as_long_as_asked_whatever_ends_one(folder: Path) -> None:
    session = load(folder, threads=1)
    # Behind <bos> the toy ends at once; and its own answer to this prompt has four tokens.
    for prompt in ([1], [1, 4, 3]):
        stages = Stages(session, sample(session, [], prompt, Proven({})), [1, 2, 4])
        taken = stages.once()
        assert len(taken["token"]) == 3
        assert taken["answer_4"] == pytest.approx(taken["first_token"] + sum(taken["token"]))
        assert taken["answer_2"] == pytest.approx(taken["first_token"] + taken["token"][0])
    assert [*Stages(session, sample(session, [], [1], Proven({})), [1]).once()] == ["encoder", "prefill", "first_token"]


def test_a_recogniser_is_told_what_to_write(tmp_path: Path) -> None:
    session = load(toy_speech.write(tmp_path / "speech"), threads=1)
    told = [toy_speech.START, toy_speech.EN, toy_speech.TRANSCRIBE, toy_speech.NO_TIMES]
    assert sample(session, [], None, Proven({})).ids == told
    assert sample(session, [], None, Proven({}, [10, 12])).ids == [10, 12]
    assert sample(session, [], "two", Proven({}, [10, 12])).ids == [*told, 2]
    taken = Stages(session, sample(session, [], None, Proven({})), [2]).once()
    assert [*taken] == ["encoder", "prefill", "first_token", "token", "answer_2"]


def test_a_sound_is_read_by_the_window_that_run_takes(tmp_path: Path) -> None:
    soundfile = pytest.importorskip("soundfile")
    pytest.importorskip("soxr")
    folder = toy_speech.write(tmp_path / "speech", seconds=(30, 12))
    soundfile.write(tmp_path / "short.wav", toy_speech.said((5, 0.3)), toy_speech.RATE)
    for more, variant in (((), "toy-12s"), (("--variant", "toy-30s"), "toy-30s")):
        done = typed(folder, "--audio", tmp_path / "short.wav", "--rounds", 1, "--tokens", 1, "--json", *more)
        (one,) = json.loads(done.stdout)["bundles"]
        assert (one["variant"], one["input"]) == (variant, "short.wav")


def test_a_process_that_dies_is_an_error_and_its_own_errors_are_ours(folder: Path) -> None:
    request = {"bundle": str(folder), "runtime": "ort", "options": {"variant": None, "threads": 1}, "files": []}
    request |= {"prompt": None, "inputs": {}, "ids": None, "tokens": [1]}
    side = Side(folder, "toy", request, [])
    assert side.once()["encoder"] > 0 and side.cpu > 0
    side._process.kill()
    with pytest.raises(GraphError, match=r"its process ended with -9: .*toy"):
        side.once()
    side.close()
    with pytest.raises(RequestError, match="unknown provider 'gpu'"):
        Side(folder, "toy", {**request, "options": {"provider": "gpu"}}, [])


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--max-regression", "5%"), "--max-regression is about two bundles. Name the other: --against BUNDLE."),
        (("--stage", "encoder"), "--stage is about two bundles"),
        (("--against-variant", "x"), "--against-variant is about two bundles"),
        (("--against", ".", "--stage", "encoder"), "--stage says what --max-regression is about"),
        (("--against", ".", "--max-regression", "5%", "--rounds", "5"), "Give at least --rounds 6"),
        (("--max-regression", "5"), "'5' is not a share. Write 5% or 0.05."),
        (("--tokens", "0"), "lengths of at least 1"),
        (("--rounds", "0"), "0 rounds"),
        (("--runtime", "tensorrt", "--threads", "2"), "threads 2 is of ONNX Runtime"),
        (("--audio", "a.wav"), "the model takes images, not sound"),
        (("--variant", "other"), "no variant 'other'"),
    ],
)
def test_what_does_not_fit_is_refused(folder: Path, arguments: tuple[str, ...], says: str) -> None:
    assert says in typed(folder, *arguments, code=2).stderr


def test_a_stage_that_is_not_there_is_refused_before_anything_is_timed(folder: Path) -> None:
    gate = ("--max-regression", "0.05", "--rounds", 6)
    said = typed(folder, "--against", folder, *gate, "--stage", "tokens", code=2).stderr
    assert "no stage 'tokens' is measured of both. Did you mean token" in said


def test_the_public_name() -> None:
    assert tokexport.bench is speed.bench
    with pytest.raises(RequestError, match=r"bench\(\) has no argument 'round'. Did you mean rounds"):
        tokexport.bench("x", round=3)  # type: ignore[call-arg]
