"""Limits are checked before anything is decoded: a small file never needs gigabytes, and no pipe is waited for."""

import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tokexport.errors import RequestError
from tokexport.runtimes.bundle.manifest import LogMelRecord, PreprocessRecord, VideoRecord
from tokexport.runtimes.media import limits
from tokexport.runtimes.media.audio import read_sound
from tokexport.runtimes.media.encoder_input import encoder_input
from tokexport.runtimes.media.image import pixel_values
from tokexport.runtimes.media.video import clip_values


def record(**changes: Any) -> PreprocessRecord:
    plain = {"size": (224, 224), "resample": "bicubic", "mean": (0, 0, 0), "std": (1, 1, 1)}
    return PreprocessRecord.model_validate(plain | changes)


def png(path: Path, width: int, height: int) -> Path:
    """The header of a picture of any size, with hardly anything behind it."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    content = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 99)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + content)
    return path


def test_a_picture_of_too_many_pixels_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"10000 x 10000 pixels, and at most 89 million.*smaller first"):
        pixel_values(png(tmp_path / "a.png", 10_000, 10_000), record())
    with pytest.raises(RequestError, match="cannot be read"):
        pixel_values(png(tmp_path / "a.png", 2**31 - 1, 2**31 - 1), record())


@pytest.mark.parametrize(("size", "crop"), [((100_000, 1), "center"), ((1, 100_000), "center"), ((1, 600_000), "none")])
def test_a_strip_is_not_made_large(size: tuple[int, int], crop: str) -> None:
    with pytest.raises(RequestError, match="would be resized to"):
        pixel_values(Image.new("RGB", size), record(crop=crop))


@pytest.mark.parametrize("crop", ["none", "pad"])
def test_a_strip_that_is_made_small_is_taken(crop: str) -> None:
    assert pixel_values(Image.new("RGB", (100_000, 1)), record(crop=crop)).shape == (1, 3, 224, 224)


def test_formats_that_other_programs_decode_are_not_opened(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n")
    with pytest.raises(RequestError, match="cannot be read as an image"):
        pixel_values(tmp_path / "a.png", record())
    assert not {"EPS", "WMF", "PDF", "GRIB", "HDF5"} & {*limits.FORMATS}


@pytest.mark.parametrize("kind", ["image", "video", "sound"])
def test_a_pipe_is_refused_at_once(kind: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "p")
    read = {
        "image": lambda: pixel_values(tmp_path / "p", record()),
        "video": lambda: clip_values(tmp_path / "p", VideoRecord(kind="video", frames=2, frame=record())),
        "sound": lambda: read_sound(tmp_path / "p", 16000),
    }
    with pytest.raises(RequestError, match="no regular file"):
        read[kind]()


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the system does not say what a process has used")
def test_one_frame_of_a_video_is_in_memory_at_a_time(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (3000, 3000), (i * 30, 0, 99)) for i in range(8)]
    frames[0].save(tmp_path / "v.gif", save_all=True, append_images=frames[1:])
    code = (
        "import re, sys; from pathlib import Path; from tokexport.runtimes.bundle.manifest import *; "
        "from tokexport.runtimes.media.video import clip_values; "
        "one = PreprocessRecord(size=(8, 8), resample='nearest', mean=(0, 0, 0), std=(1, 1, 1)); "
        "clip_values(sys.argv[1], VideoRecord(kind='video', frames=8, frame=one)); "
        "print(int(re.search(r'VmHWM:\\s+(\\d+)', Path('/proc/self/status').read_text())[1]) // 1024)"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "v.gif"], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 260  # MiB; all 8 frames alone are 274, beside 90 of Python.


def test_a_sound_is_measured_before_it_is_resampled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    soundfile, soxr = pytest.importorskip("soundfile"), pytest.importorskip("soxr")
    soundfile.write(tmp_path / "a.wav", np.zeros(100_000, np.float32), 1)
    monkeypatch.setattr(soxr, "resample", lambda *args: pytest.fail("resampled"))
    mel = LogMelRecord(kind="log_mel", sample_rate=16000, n_fft=400, hop=160, mels=80, frames=3000)
    with pytest.raises(RequestError, match=r"lasts 100000\.00 s, and the encoder takes at most 30 s"):
        encoder_input(tmp_path / "a.wav", mel, tmp_path)


def test_a_header_that_says_less_than_there_is(tmp_path: Path) -> None:
    soundfile = pytest.importorskip("soundfile")
    soundfile.write(tmp_path / "a.wav", np.full(2000, 0.5, np.float32), 16000)
    assert len(read_sound(tmp_path / "a.wav", 16000, 2000)) == 2000
    with pytest.raises(RequestError, match="takes at most"):
        read_sound(tmp_path / "a.wav", 16000, 1999)


@pytest.mark.parametrize(
    "values",
    [
        {"size": [1 << 20, 1 << 20]},
        {"kind": "video", "frames": 1 << 20, "frame": {"size": [1024, 1024]}},
        {"kind": "log_mel", "sample_rate": 16000, "n_fft": 400, "hop": 1 << 20, "mels": 80, "frames": 1 << 20},
        {"kind": "log_mel", "sample_rate": 16000, "n_fft": 1 << 20, "hop": 160, "mels": 80, "frames": 1 << 20},
        {"kind": "log_mel", "sample_rate": 16000, "n_fft": 60000, "hop": 1, "mels": 1 << 20, "frames": 60000},
    ],
)
def test_no_record_asks_for_more_than_an_encoder_takes(values: dict[str, Any]) -> None:
    plain = {"resample": "bicubic", "mean": (0, 0, 0), "std": (1, 1, 1)}
    if values.get("kind") == "video":
        values["frame"] |= plain
    kinds: dict[str, Any] = {"video": VideoRecord, "log_mel": LogMelRecord}
    with pytest.raises(ValueError, match=r"more than|less than or equal"):
        kinds.get(values.get("kind", ""), PreprocessRecord).model_validate(
            values if "kind" in values else values | plain
        )
