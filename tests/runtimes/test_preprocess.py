import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError
from tokexport.errors import BundleError, RequestError
from tokexport.runtimes.bundle.manifest import PreprocessRecord
from tokexport.runtimes.media.image import pixel_values


def record(**changes: Any) -> PreprocessRecord:
    plain = {"size": (4, 4), "resample": "nearest", "rescale": 1.0, "mean": (0, 0, 0), "std": (1, 1, 1)}
    return PreprocessRecord.model_validate(plain | changes)


def ramp(width: int, height: int) -> Image.Image:
    """Red counts columns, green counts rows."""
    array = np.zeros((height, width, 3), np.uint8)
    array[..., 0], array[..., 1] = np.arange(width), np.arange(height)[:, None]
    return Image.fromarray(array)


def test_layout_dtype_and_normalisation() -> None:
    image = Image.new("RGB", (4, 4), (0, 51, 255))
    found = pixel_values(image, record(rescale=1 / 255, mean=(0.5, 0.2, 0.25), std=(0.5, 1, 0.25)))
    assert found.shape == (1, 3, 4, 4)
    assert found.dtype == np.float32
    assert found.flags.c_contiguous
    np.testing.assert_allclose(found[0, :, 0, 0], [-1.0, 0.0, 3.0], atol=1e-7)


def test_height_comes_first() -> None:
    found = pixel_values(ramp(6, 2), record(size=(2, 6)))
    assert found.shape == (1, 3, 2, 6)
    np.testing.assert_array_equal(found[0, 0, 0], np.arange(6))
    np.testing.assert_array_equal(found[0, 1, :, 0], np.arange(2))


def test_none_stretches() -> None:
    found = pixel_values(ramp(8, 4), record(size=(4, 4)))
    np.testing.assert_array_equal(found[0, 0, 0], [1, 3, 5, 7])
    np.testing.assert_array_equal(found[0, 1, :, 0], [0, 1, 2, 3])


@pytest.mark.parametrize(("width", "left"), [(6, 1), (7, 1), (4, 0)])
def test_center_takes_the_middle(width: int, left: int) -> None:
    found = pixel_values(ramp(width, 4), record(crop="center"))
    np.testing.assert_array_equal(found[0, 0, 0], np.arange(left, left + 4))
    found = pixel_values(ramp(4, width), record(crop="center"))
    np.testing.assert_array_equal(found[0, 1, :, 0], np.arange(left, left + 4))


@pytest.mark.parametrize(("width", "height"), [(12, 8), (8, 12), (8, 8)])
def test_center_takes_the_middle_of_a_picture_whose_shorter_side_is_longer(width: int, height: int) -> None:
    found = pixel_values(ramp(width, height), record(crop="center", shortest=8))
    np.testing.assert_array_equal(found[0, 0, 0], np.arange(4) + (width - 4) // 2)
    np.testing.assert_array_equal(found[0, 1, :, 0], np.arange(4) + (height - 4) // 2)


@pytest.mark.parametrize("changes", [{"crop": "none", "shortest": 8}, {"crop": "center", "shortest": 3}])
def test_a_shortest_side_is_of_a_crop_and_covers_it(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="is of crop center alone, and covers"):
        record(**changes)


def test_center_covers_a_size_of_another_shape() -> None:
    found = pixel_values(ramp(4, 8), record(size=(2, 4), crop="center"))
    np.testing.assert_array_equal(found[0, 0, 0], np.arange(4))
    np.testing.assert_array_equal(found[0, 1, :, 0], [3, 4])


def test_pad_fits_into_the_mean_colour() -> None:
    found = pixel_values(ramp(4, 2), record(crop="pad", rescale=0.5, mean=(10, 20, 30)))
    np.testing.assert_array_equal(found[0, 0], [[0] * 4, *[[-10, -9.5, -9, -8.5]] * 2, [0] * 4])
    np.testing.assert_array_equal(found[0, 1, :, 0], [0, -20, -19.5, 0])


def test_tiles_stand_behind_the_whole_picture_row_by_row() -> None:
    tiles = {"grid": (2, 3), "fitted": (1, 4)}
    found = pixel_values(ramp(12, 6), record(size=(2, 2), tiles=tiles, rescale=2.0, mean=(1, 0, 0)))
    assert found.shape == (1, 7, 3, 2, 2)
    # Columns 3 and 9 of the picture; every third one in the tiles, in the second of four rows, and black around them.
    np.testing.assert_array_equal(found[0, 0, 0, 0], [5, 17])
    np.testing.assert_array_equal(found[0, 1:4, 0, 1].ravel(), [-1, *(2 * x - 1 for x in (1, 4, 7, 10)), -1])
    np.testing.assert_array_equal(found[0, 1:4, 1, 1].ravel(), [0, 6, 6, 6, 6, 0])
    assert (found[0, 1:4, 0, 0] == -1).all() and (found[0, 4:, 0] == -1).all()


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"grid": (1, 2), "fitted": (3, 4)}, "fitted \\[3, 4\\] is larger than all tiles together, \\[2, 4\\]"),
        ({"grid": (0, 2), "fitted": (1, 1)}, "greater than or equal to 1"),
        ({"grid": (64, 64), "fitted": (1, 1)}, "tiles included"),
    ],
)
def test_tiles_that_cannot_be_are_refused(changes: dict[str, Any], why: str) -> None:
    side = 2 if "included" not in why else 80
    with pytest.raises(ValidationError, match=why):
        record(size=(side, side), tiles=changes)


def test_shrinking_antialiases_on_whole_numbers() -> None:
    stripes = Image.fromarray(np.tile(np.array([0, 255], np.uint8), (8, 4)))
    found = pixel_values(stripes, record(size=(1, 1), resample="bilinear"))
    assert found[0, 0, 0, 0] in (127, 128)


@pytest.mark.parametrize("name", ["nearest", "bilinear", "bicubic", "lanczos"])
def test_each_filter_is_the_one_of_pillow(name: str) -> None:
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (9, 11, 3), np.uint8))
    expected = np.asarray(image.resize((4, 4), Image.Resampling[name.upper()]))
    np.testing.assert_array_equal(pixel_values(image, record(resample=name))[0], expected.transpose(2, 0, 1))


def test_antialias_off_is_refused_where_pillow_cannot() -> None:
    with pytest.raises(BundleError, match="without antialiasing"):
        pixel_values(ramp(8, 8), record(resample="bicubic", antialias=False))
    pixel_values(ramp(8, 8), record(resample="nearest", antialias=False))


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGBA", "CMYK"])
def test_every_8_bit_mode_becomes_rgb(mode: str) -> None:
    assert pixel_values(ramp(4, 4).convert(mode), record()).shape == (1, 3, 4, 4)


def test_more_than_8_bits_are_refused() -> None:
    with pytest.raises(RequestError, match=r"mode I;16.*8-bit"):
        pixel_values(Image.new("I;16", (4, 4), 65535), record())


@pytest.mark.parametrize("mode", ["RGB", "I;16"])
def test_a_file_is_closed_taken_or_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    Image.new(mode, (4, 4)).save(tmp_path / "image.png")
    opened: list[Any] = []
    really = Image.open
    monkeypatch.setattr(Image, "open", lambda path, **kind: opened.append(really(path, **kind)) or opened[-1])
    with contextlib.suppress(RequestError):
        pixel_values(tmp_path / "image.png", record())
    assert [image.fp for image in opened] == [None]


def test_exif_turns_the_image_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 3
    ramp(4, 4).save(tmp_path / "turned.png", exif=exif)
    found = pixel_values(tmp_path / "turned.png", record())
    np.testing.assert_array_equal(found[0, 0, 0], [3, 2, 1, 0])


def test_missing_image_is_named() -> None:
    with pytest.raises(RequestError, match=r"no image nowhere\.png"):
        pixel_values("nowhere.png", record())


@pytest.mark.parametrize("content", [b"", b"not an image", "cut"])
def test_damaged_image_is_named(tmp_path: Path, content: bytes | str) -> None:
    path = tmp_path / "bad.png"
    if isinstance(content, str):
        noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
        Image.fromarray(noise).save(path)
        content = path.read_bytes()[:2000]
    path.write_bytes(content)
    with pytest.raises(RequestError, match=r"bad\.png cannot be read as an image"):
        pixel_values(path, record())


def test_folder_is_no_image(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="cannot be read as an image"):
        pixel_values(tmp_path, record())


@pytest.mark.parametrize("image", [None, 3])
def test_what_is_no_image_is_refused(image: Any) -> None:
    with pytest.raises(RequestError, match="is not an image"):
        pixel_values(image, record())


def test_a_strip_is_not_made_large_for_its_tiles() -> None:
    tiles = {"grid": (1, 64), "fitted": (2, 128)}
    with pytest.raises(RequestError, match="would be resized to 128 x"):
        pixel_values(Image.new("RGB", (1, 1 << 20)), record(size=(2, 2), tiles=tiles))
