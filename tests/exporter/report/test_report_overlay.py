"""The drawing of a choice: which tokens are lit, tinted, dimmed, framed and numbered, and in which colours."""

from __future__ import annotations

import re

import numpy as np
import pytest
from report_case import PICKS, PREPROCESS, image
from tokexport.exporter.report.colours import ALONE, PALETTE, slot_colours
from tokexport.exporter.report.figures import figure, summary
from tokexport.exporter.report.look import Look
from tokexport.exporter.report.overlay import paint, squares
from tokexport.exporter.report.picks import Picks
from tokexport.exporter.report.pixels import pixels_of, slot_means
from tokexport.runtimes.bundle.manifest import VideoRecord


def cells(path: str) -> set[int]:
    """The tokens of a 4 x 4 grid of cells of 40 that a path covers."""
    found = set()
    for x, y, wide, tall in re.findall(r"M(\d+) (\d+)h(\d+)v(\d+)H\1z", path):
        assert tall == "40"
        found |= {int(y) // 40 * 4 + (int(x) + step) // 40 for step in range(0, int(wide), 40)}
    return found


def test_every_token_is_lit_merged_or_lost():
    assert np.flatnonzero(PICKS.lit).tolist() == [0, 5, 10]
    assert np.flatnonzero(PICKS.merged).tolist() == [1, 4, 11]
    assert (PICKS.lit.astype(int) + PICKS.merged + PICKS.lost == 1).all()
    assert summary(PICKS) == "16 tokens become 4, 3 merged into 2 slots, 10 dropped"


def test_the_layers_cover_exactly_their_tokens():
    drawn = paint(PICKS, squares((4, 4)))
    (lost,) = re.findall(r"class='lost' d='([^']*)'", drawn)
    assert cells(lost) == set(np.flatnonzero(PICKS.lost).tolist())
    colours = slot_colours(PICKS, (4, 4))
    tints = {fill: cells(d) for d, fill in re.findall(r"class='merged' d='([^']*)' fill='([^']*)'", drawn)}
    assert tints == {colours[0]: {1, 4}, colours[2]: {11}}


def test_frames_have_the_colour_of_their_slot_and_are_dashed_where_the_token_is_gone():
    frames = re.findall(
        r"<rect class='kept' x='([^']*)' y='([^']*)' [^>]*stroke='([^']*)' [^>]*?(dash)?[^>]*/>",
        paint(PICKS, squares((4, 4))),
    )
    colours = slot_colours(PICKS, (4, 4))
    assert [(int(float(y)) // 40 * 4 + int(float(x)) // 40, colour) for x, y, colour, _ in frames] == list(
        zip(PICKS.kept.tolist(), colours)
    )
    assert paint(PICKS, squares((4, 4))).count("stroke-dasharray") == 1


def test_only_slots_of_more_than_one_token_are_numbered():
    assert re.findall(r">(\d+)</text>", paint(PICKS, squares((4, 4)))) == ["3", "2"]


def test_tokens_that_are_stacked_have_no_number_and_no_mean_colour():
    stacked = Picks(PICKS.kept, np.ones(4, np.float32), PICKS.assignment)
    pixels = pixels_of(image(), PREPROCESS, (4, 4))
    averaged, beside = (figure(0, Look(image(), picks), pixels, (4, 4)) for picks in (PICKS, stacked))
    assert (len(averaged.panels), len(beside.panels)) == (3, 2)
    drawn = beside.panels[1].markup
    assert "slot 0 at token 0 (row 1, column 1): 3 tokens went in, size 1" in drawn and "</text>" not in drawn
    assert "slot 1 at token 5 (row 2, column 2): this token alone" in drawn


def test_each_merging_slot_has_a_colour_of_its_own_while_there_are_enough():
    n = 2 * len(PALETTE)
    picks = Picks(np.arange(0, n, 2), np.full(n // 2, 2, np.float32), np.repeat(np.arange(n // 2), 2))
    assert sorted(slot_colours(picks, (n,))) == sorted(PALETTE)
    assert slot_colours(PICKS, (4, 4))[1] == ALONE


def test_with_hundreds_of_slots_neighbours_still_differ():
    # As many slots in a row as there are colours: dealt out in turn, all slots of a column would have the same.
    wide = 2 * len(PALETTE)
    rows, columns = np.divmod(np.arange(wide * wide), wide)
    assignment = rows // 2 * len(PALETTE) + columns // 2
    kept = np.flatnonzero((rows % 2 == 0) & (columns % 2 == 0))
    colours = slot_colours(Picks(kept, np.full(len(kept), 4, np.float32), assignment), (wide, wide))
    grid = np.array(colours)[assignment].reshape(wide, wide)
    owner = assignment.reshape(wide, wide)
    for axis in (0, 1):
        other = np.diff(owner, axis=axis) != 0
        same = np.take(grid, range(1, wide), axis) == np.take(grid, range(wide - 1), axis)
        assert not (other & same).any()


def test_pixel_values_come_back_as_the_picture_they_were():
    drawn = np.random.default_rng(1).integers(0, 256, (32, 32, 3), np.uint8)
    values = ((drawn.transpose(2, 0, 1)[None] / 255 - 0.5) / 0.5).astype(np.float32)
    found = pixels_of(values, PREPROCESS, (4, 4))
    assert found is not None and (found.rgb == drawn).all() and not found.note


def test_pixels_of_unknown_normalisation_are_scaled_and_labelled():
    found = pixels_of(image() * 100, None, (4, 4))
    assert found is not None and "scaled from least to largest" in found.note
    assert found.rgb.min() == 0 and found.rgb.max() == 255


@pytest.mark.parametrize("shape", [(1, 12, 8), (1, 4, 8, 8)])
def test_an_input_that_is_no_picture_is_not_drawn_as_one(shape):
    assert pixels_of(np.zeros(shape), None, (3, 4)) is None
    drawn = figure(0, Look(np.zeros(shape), PICKS), None, None)
    assert len(drawn.panels) == 1 and "unknown" in drawn.notes[0]


def test_a_spectrogram_has_its_low_frequencies_below():
    found = pixels_of(np.concatenate([np.ones((1, 1, 4)), np.zeros((1, 7, 4))], 1), None, (2,))
    assert found is not None and found.sound and found.rgb.shape == (8, 4, 3)
    assert found.rgb[-1].sum() > found.rgb[0].sum()


def test_what_is_left_is_the_mean_of_each_slot():
    found = pixels_of(image(), PREPROCESS, (4, 4))
    assert found is not None
    boxes = np.array([(8 * (i % 4), 8 * (i // 4), 8 * (i % 4) + 8, 8 * (i // 4) + 8) for i in range(16)])
    means = slot_means(found, boxes, PICKS.assignment, 4)
    rgb = found.rgb.astype(float)
    wanted = np.concatenate([rgb[:8, :16].reshape(-1, 3), rgb[8:16, :8].reshape(-1, 3)]).mean(0)
    assert np.abs(means[0] - wanted).max() <= 0.5 and (means[3] == 0).all()


def test_the_frames_of_a_video_stand_beside_each_other():
    """Two frames of 2 x 2 tokens and 8 x 8 pixels: token 4, the first of frame 1, is drawn in column 3 of row 1."""
    frames = np.stack([np.zeros((3, 8, 8)), np.ones((3, 8, 8))])[None].astype(np.float32)
    pixels = pixels_of(frames, VideoRecord(kind="video", frames=2, frame=PREPROCESS), (2, 2, 2))
    assert pixels is not None and pixels.rgb.shape == (8, 16, 3)
    assert pixels.rgb[:, :8].max() < 130 and pixels.rgb[:, 8:].min() == 255
    picks = Picks(np.array([1, 4]), np.array([2, 1], np.float32), np.array([-1, 0, -1, -1, 1, 0, -1, -1]))
    drawn = figure(0, Look(frames, picks), pixels, (2, 2, 2))
    assert drawn.wide and not drawn.bars and "side by side" in drawn.notes[0]
    kept = drawn.panels[1]
    assert kept.size == (160, 80)
    places = re.findall(r"<rect class='kept' x='([^']*)' y='([^']*)'", kept.markup)
    assert [(int(float(x)) // 40, int(float(y)) // 40) for x, y in places] == [(1, 0), (2, 0)]
    assert [where for _, where, _ in drawn.slots] == ["1 (frame 1, row 1, column 2)", "4 (frame 2, row 1, column 1)"]
