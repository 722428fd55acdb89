"""A real report in a real browser: nothing is fetched, everything is reached by keyboard, and the pixels are right."""

from __future__ import annotations

import io
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageColor

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
NAME = "no chromium, chromium-browser or google-chrome on PATH: the report was not opened in a browser"

if CHROMIUM is None and "CI" not in os.environ:
    pytest.skip(NAME, allow_module_level=True)

pytest.importorskip("torch")
from playwright.sync_api import Browser, Page, sync_playwright  # noqa: E402
from tokexport.exporter.opening import open_source  # noqa: E402
from tokexport.exporter.pipeline import export  # noqa: E402
from tokexport.exporter.report.overlay import DARK, DIM, SHADE, TINT  # noqa: E402
from tokexport.exporter.report.picks import Picks  # noqa: E402
from tokexport.runtimes.load import load  # noqa: E402


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ApET lights, merges and drops tokens all at once."""
    out = tmp_path_factory.mktemp("report") / "bundle"
    export("tiny-vlm", out, method="apet", ratio="0.85", parts="encoder")
    return out


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    assert CHROMIUM, NAME
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(params=["light", "dark"])
def opened(request: pytest.FixtureRequest, browser: Browser, bundle: Path) -> Iterator[tuple[Page, list[str]]]:
    """(the page, everything it complained of or asked for beside itself)."""
    context = browser.new_context(viewport={"width": 1400, "height": 1000}, color_scheme=request.param)
    page, heard = context.new_page(), []
    page.on("console", lambda message: heard.append(f"console: {message.text}"))
    page.on("pageerror", lambda error: heard.append(f"error: {error}"))
    file = (bundle / "report.html").as_uri()
    page.on(
        "request", lambda asked: heard.append(asked.url) if asked.url != file and asked.url[:5] != "data:" else None
    )
    page.goto(file)
    yield page, heard
    context.close()


def seen(page: Page, selector: str, number: int) -> np.ndarray:
    """A screenshot of one element, uint8 [height, width, 3]."""
    shot = page.locator(selector).nth(number).screenshot()
    return np.asarray(Image.open(io.BytesIO(shot)).convert("RGB"))


def mixed(below: np.ndarray, colour: str, opacity: float) -> np.ndarray:
    return below * (1 - opacity) + np.array(ImageColor.getrgb(colour), float) * opacity


def test_it_is_silent_and_follows_the_scheme(opened: tuple[Page, list[str]]):
    page, heard = opened
    page.wait_for_timeout(200)
    assert heard == []
    dark = page.evaluate("matchMedia('(prefers-color-scheme: dark)').matches")
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(ImageColor.getrgb(ground)) < 3 * 64) == dark


def test_nothing_is_wider_than_a_narrow_screen(browser: Browser, bundle: Path):
    page = browser.new_page(viewport={"width": 360, "height": 800})
    page.goto((bundle / "report.html").as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.close()


def test_the_keyboard_reaches_everything_that_can_be_opened_or_scrolled(opened: tuple[Page, list[str]]):
    page, _ = opened
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    box = page.locator(".skip").bounding_box()
    assert box is not None and box["x"] >= 0
    reached: list[Any] = []
    for _ in range(60):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("[...document.querySelectorAll('*')].indexOf(document.activeElement)"))
    wanted = page.evaluate(
        "[...document.querySelectorAll('summary, a[href]:not(.skip), pre, .scroll')]"
        ".filter(e => e.checkVisibility() && !(e.closest('details:not([open])') && e.tagName != 'SUMMARY'))"
        ".map(e => [...document.querySelectorAll('*')].indexOf(e))"
    )
    assert len(wanted) >= 10 and set(wanted) <= set(reached)
    page.locator("summary").first.focus()
    page.keyboard.press("Enter")
    assert page.evaluate("document.querySelector('details').open")


@pytest.mark.parametrize("number", [0, 1])
def test_kept_patches_are_as_bright_as_the_input_and_the_others_are_dimmed_or_tinted(
    opened: tuple[Page, list[str]], bundle: Path, number: int
):
    page, _ = opened
    values = open_source("tiny-vlm").real_inputs(2)[number]["pixel_values"]
    picks = Picks.of(load(bundle).encode(values))
    assert picks.lit.any() and picks.merged.any() and picks.lost.any()
    pixels = (values[0].transpose(1, 2, 0) + 1) * 127.5
    # A pixel of the input is five wide then, so that its middle is hit wherever the drawing begins.
    page.add_style_tag(content=".panels { display: block } .panels svg { width: 480px !important }")
    # Input, kept and what is left: three drawings for each input.
    whole, overlay = (seen(page, "article svg", 3 * number + which).astype(float) for which in (0, 1))
    slots = page.locator("article").nth(number).locator(".slot")
    told = slots.evaluate_all(
        "all => all.map(one => [one.querySelector('title').textContent, one.querySelector('.kept').outerHTML])"
    )
    frames = {int(title.split()[1]): re.search('stroke="(#[0-9a-f]{6})"', frame)[1] for title, frame in told}
    merging = sorted(set(picks.assignment[picks.merged].tolist()))
    assert len({frames[slot] for slot in merging}) == len(merging)
    for token, slot in enumerate(picks.assignment.tolist()):
        # The second pixel of a patch lies between its frame and its number.
        row, column = (8 * each + 1 for each in divmod(token, 12))
        at = 5 * row + 2, 5 * column + 2
        assert np.abs(whole[at] - pixels[row, column]).max() <= 3, token
        if token == picks.kept[slot] and slot >= 0:
            wanted = pixels[row, column]
        elif slot < 0:
            wanted = mixed(pixels[row, column], DARK, DIM)
        else:
            wanted = mixed(mixed(pixels[row, column], DARK, SHADE), frames[slot], TINT)
        assert np.abs(overlay[at] - wanted).max() <= 6, (token, slot)
    assert SHADE >= 0.25 and DIM >= 0.75 and 0.1 <= TINT <= 0.3
