"""Videos: which frames are taken, from animated pictures, folders and arrays, and what is refused."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tokexport.errors import MissingError, RequestError
from tokexport.runtimes.bundle.manifest import PreprocessRecord, VideoRecord
from tokexport.runtimes.media.encoder_input import encoder_input
from tokexport.runtimes.media.video import chosen, clip_values

PLAIN = PreprocessRecord(size=(4, 6), resample="nearest", mean=(0, 0, 0), std=(1, 1, 1), rescale=1.0)
RECORD = VideoRecord(kind="video", frames=4, frame=PLAIN)
# Frame n is n in every channel; 8 of them, of which the middles of four pairs are taken.
GREY = np.arange(8, dtype=np.uint8)[:, None, None, None].repeat(4, 1).repeat(6, 2).repeat(3, 3) * 20


def frames(values: np.ndarray) -> list[float]:
    """The value of each frame, where each has one."""
    assert values.dtype == np.float32 and values.shape == (1, 4, 3, 4, 6)
    assert (values == values[:, :, :1, :1, :1]).all()
    return values[0, :, 0, 0, 0].tolist()


@pytest.mark.parametrize(
    ("count", "taken"),
    [(4, [0, 1, 2, 3]), (8, [1, 3, 5, 7]), (5, [0, 1, 3, 4]), (100, [12, 37, 62, 87])],
)
def test_frames_stand_in_the_middle_of_equal_parts(count: int, taken: list[int]) -> None:
    assert chosen(count, 4) == taken


@pytest.mark.parametrize("name", ["clip.gif", "clip.webp", "clip.png"])
def test_animated_pictures_are_read(tmp_path: Path, name: str) -> None:
    first, *others = (Image.fromarray(frame) for frame in GREY)
    lossless = {"lossless": True} if name.endswith("webp") else {}
    first.save(tmp_path / name, save_all=True, append_images=others, duration=50, **lossless)
    assert frames(clip_values(tmp_path / name, RECORD)) == [20, 60, 100, 140]


def test_an_array_and_a_folder_are_read(tmp_path: Path) -> None:
    assert frames(encoder_input(GREY, RECORD, tmp_path)) == [20, 60, 100, 140]
    for number, frame in enumerate(GREY):
        Image.fromarray(frame).save(tmp_path / f"{number:03}.png")
    (tmp_path / "notes.txt").write_text("not a picture")
    (tmp_path / ".hidden.png").write_text("not read")
    assert frames(encoder_input(str(tmp_path), RECORD, tmp_path)) == [20, 60, 100, 140]


def test_what_is_the_encoders_input_already_passes(tmp_path: Path) -> None:
    ready = np.zeros((1, 4, 3, 4, 6), np.float32)
    assert encoder_input(ready, RECORD, tmp_path) is ready


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("nope.gif", "no video .*nope.gif"),
        ("film.ogv", "no video that can be read here.*MP4.*animated GIF, WebP or PNG.*ffmpeg"),
        ("still.png", "one picture and no video"),
        ("cut.gif", "cannot be read as a video"),
        ("empty", "no pictures in the folder"),
        ("short.gif", "short.gif has 3 frames, and the model reads 4.*--frames 3"),
    ],
)
def test_what_cannot_be_read_is_refused_with_what_can(tmp_path: Path, name: str, says: str) -> None:
    (tmp_path / "film.ogv").write_bytes(b"OggS" + bytes(64))
    (tmp_path / "empty").mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (8, 64, 64, 3), np.uint8)
    first, *others = (Image.fromarray(frame) for frame in noise)
    first.save(tmp_path / "still.png")
    first.save(tmp_path / "whole.gif", save_all=True, append_images=others)
    first.save(tmp_path / "short.gif", save_all=True, append_images=others[:2])
    whole = (tmp_path / "whole.gif").read_bytes()
    (tmp_path / "cut.gif").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(RequestError, match=says):
        clip_values(tmp_path / name, RECORD)


def test_arrays_of_another_kind_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"\[frames, height, width, 3\], not \[4, 6, 3\]"):
        encoder_input(GREY[0], RECORD, tmp_path)
    with pytest.raises(RequestError, match="a list is not a video"):
        encoder_input([GREY[0]], RECORD, tmp_path)  # type: ignore[arg-type]


def filmed(path: Path, count: int = 8, **options: Any) -> Path:
    """A film of grey frames, each 20 brighter than the one before."""
    av = pytest.importorskip("av")
    with av.open(str(path), "w") as film:
        stream = film.add_stream(options.pop("codec", "mpeg4"), rate=10)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        for number in range(count):
            grey = np.full((32, 48, 3), 20 * number % 256, np.uint8)
            film.mux(stream.encode(av.VideoFrame.from_ndarray(grey, "rgb24")))
        film.mux(stream.encode())
    return path


@pytest.mark.parametrize("name", ["clip.mp4", "CLIP.MOV", "clip.mkv", "clip.avi"])
def test_films_are_read(tmp_path: Path, name: str) -> None:
    values = clip_values(filmed(tmp_path / name), RECORD)
    assert values.shape == (1, 4, 3, 4, 6) and np.abs(values[0, :, 0, 2, 3] - [20, 60, 100, 140]).max() < 8


def test_films_that_are_damaged_short_or_sounds_are_refused(tmp_path: Path) -> None:
    av = pytest.importorskip("av")
    with pytest.raises(RequestError, match=r"short\.mp4 has 3 frames, and the model reads 4.*--frames 3"):
        clip_values(filmed(tmp_path / "short.mp4", 3), RECORD)
    whole = filmed(tmp_path / "whole.avi", 100).read_bytes()
    (tmp_path / "cut.avi").write_bytes(whole[: len(whole) // 2])
    assert clip_values(tmp_path / "cut.avi", RECORD).shape == (1, 4, 3, 4, 6)
    (tmp_path / "no.mp4").write_bytes(b"\0\0\0\x20ftypisom" + bytes(64))
    with pytest.raises(RequestError, match=r"no\.mp4 cannot be read as a video: .*Is it complete"):
        clip_values(tmp_path / "no.mp4", RECORD)
    with pytest.raises(RequestError, match=r"no video .*nowhere\.mp4"):
        clip_values(tmp_path / "nowhere.mp4", RECORD)
    with av.open(str(tmp_path / "sound.mkv"), "w") as film:
        stream = film.add_stream("pcm_s16le", rate=16000, layout="mono")
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1600), np.int16), layout="mono")
        sound.sample_rate = 16000
        film.mux(stream.encode(sound))
        film.mux(stream.encode())
    with pytest.raises(RequestError, match=r"sound\.mkv holds no pictures"):
        clip_values(tmp_path / "sound.mkv", RECORD)


def test_a_film_that_lies_is_turned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a phone that is held upright writes it."""
    from tokexport.runtimes.media import film

    class Lying:
        rotation = -90

        def to_image(self) -> Image.Image:
            return Image.new("RGB", (8, 4))

    class Film:
        def demux(self, video: int) -> list[Any]:
            return [SimpleNamespace(size=1)] * 2 + [SimpleNamespace(size=0)]

        def decode(self, video: int) -> Iterator[Any]:
            return iter([Lying(), Lying()])

    pytest.importorskip("av")
    monkeypatch.setattr(film, "_film", lambda av, path: contextlib.nullcontext(Film()))
    (frame,) = film.frames_of(Path("a.mp4"), lambda count: [count - 1])
    assert frame.size == (4, 8)


def test_without_av_a_film_is_refused_with_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    (tmp_path / "a.mp4").write_bytes(b"")
    with pytest.raises(MissingError, match=r'pip install "tokexport\[video\]".*ffmpeg -i .*a\.mp4'):
        clip_values(tmp_path / "a.mp4", RECORD)
