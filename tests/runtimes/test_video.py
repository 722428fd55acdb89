"""Videos: which frames are taken, from animated pictures, folders and arrays, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tokexport.errors import RequestError
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
        ("film.mp4", "no video that can be read here.*animated GIF, WebP or PNG.*ffmpeg"),
        ("still.png", "one picture and no video"),
        ("cut.gif", "cannot be read as a video"),
        ("empty", "no pictures in the folder"),
        ("short.gif", "short.gif has 3 frames, and the model reads 4.*--frames 3"),
    ],
)
def test_what_cannot_be_read_is_refused_with_what_can(tmp_path: Path, name: str, says: str) -> None:
    (tmp_path / "film.mp4").write_bytes(b"\0\0\0\x20ftypisom" + bytes(64))
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
