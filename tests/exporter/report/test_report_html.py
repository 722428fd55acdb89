"""The page is valid, whole in itself, and shows names that users chose as text."""

from __future__ import annotations

import re
from itertools import pairwise

import html5lib
import numpy as np
import pytest
from report_case import HALF, PICKS, check, image, page
from tokexport.exporter.report.look import Look
from tokexport.exporter.report.picks import Picks
from tokexport.runtimes.bundle.manifest import LogMelRecord

ACCURACY = {"questions": 8, "compressed": 0.5, "uncompressed": 1.0}
EVIL = "<script>alert(1)</script>"
SOUND = LogMelRecord(kind="log_mel", sample_rate=16000, n_fft=400, hop=160, mels=8, frames=32)
MANY = Picks(np.array([0, 599]), np.array([599, 1], np.float32), np.array([0] * 599 + [1]))

PAGES = {
    "proved": {"proof": {"checks": [check()]}, "accuracy": ACCURACY, "drift": {"kept_overlap": 1.0, "cosine": 1.0}},
    "failed": {"proof": {"checks": [check(ok=False)]}, "failure": "1 of 1 checks failed"},
    "unverified": {"notes": ["a note"]},
    "no picture": {"looks": [], "no_figures": "nothing ran"},
    "unknown grid": {"grid": None, "preprocess": None},
    "asked": {"looks": [Look(image(), PICKS, "what?", "this", "that"), Look(image(1), PICKS, "", "this", "this")]},
    "sound": {"looks": [Look(np.ones((1, 8, 32)), PICKS)], "preprocess": SOUND, "grid": (16,)},
    "long sound": {"looks": [Look(np.eye(8, 1200)[None], MANY)], "preprocess": None, "grid": (600,)},
    "evil": {
        "name": EVIL,
        "kind": "module",
        "notes": [EVIL],
        "proof": {"checks": [check(tensor=EVIL, detail=EVIL, ok=False)]},
        "failure": EVIL,
        "accuracy": {**ACCURACY, "metric": EVIL},
        "looks": [Look(image(), PICKS, EVIL, EVIL, EVIL + "!")],
    },
}


@pytest.fixture(params=PAGES)
def text(request: pytest.FixtureRequest) -> str:
    return page(**PAGES[request.param])


def elements(text: str) -> list:
    return list(html5lib.parse(text, namespaceHTMLElements=False).iter())


def tag(element) -> str:
    return str(element.tag).rpartition("}")[2]


def test_it_is_valid_html(text):
    html5lib.HTMLParser(strict=True).parse(text)
    found = [element for element in elements(text) if element.get("id")]
    ids = [element.get("id") for element in found]
    assert len(ids) == len(set(ids))
    refers = [value for name in ("aria-labelledby", "href") for e in elements(text) if (value := e.get(name) or "")]
    inside = {value.removeprefix("#") for value in refers if not value.startswith("data:")}
    uses = set(re.findall(r"href='#([^']+)'", text))
    assert inside | uses <= set(ids)


def test_it_has_no_script_and_fetches_nothing(text):
    for element in elements(text):
        assert tag(element) not in ("script", "iframe", "object", "embed", "base"), tag(element)
        for name, value in element.attrib.items():
            name = str(name).rpartition("}")[2]
            assert not name.startswith("on"), name
            if name in ("href", "src", "srcset", "action"):
                assert value.startswith(("#", "data:")), value
    assert "url(" not in text and "@import" not in text and "http" not in text


def test_every_picture_has_words_and_every_table_its_headers(text):
    for element in elements(text):
        if tag(element) == "svg" and element.get("role") == "img":
            assert element.get("aria-label")
        if tag(element) == "table":
            assert tag(next(iter(element))) == "caption"
        if tag(element) == "th":
            assert element.get("scope") in ("col", "row")
        assert tag(element) != "img" or element.get("alt")
    levels = [int(tag(element)[1]) for element in elements(text) if re.fullmatch("h[1-6]", tag(element))]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))


def test_names_of_users_are_text():
    text = page(**PAGES["evil"])
    assert text.count("&lt;script&gt;") >= 9 and "<script" not in text
    html5lib.HTMLParser(strict=True).parse(text)


def _luminance(colour: str) -> float:
    parts = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
@pytest.mark.parametrize(
    ("ink", "ground"),
    [
        *((ink, ground) for ink in ("ink", "soft", "link", "good", "bad") for ground in ("page", "card")),
        *((ink, f"{ink}-ground") for ink in ("good", "bad", "warn")),
    ],
)
def test_text_has_contrast_in_both_schemes(scheme, ink, ground):
    blocks = re.findall(r":root \{(.*?)\}", page(), re.DOTALL)
    colours = dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6})", blocks[scheme]))
    low, high = sorted(_luminance(colours[name]) for name in (ink, ground))
    assert (high + 0.05) / (low + 0.05) >= 4.5


def test_an_unknown_grid_is_said_and_shown_as_a_sequence():
    text = page(**PAGES["unknown grid"])
    assert "The grid of the tokens is unknown" in text and "scaled from least to largest" in text
    assert HALF and "de-normal" not in text


def test_sound_longer_than_a_row_is_broken_into_rows():
    assert page(**PAGES["sound"]).count("href='#input-0'") == 2
    assert page(**PAGES["long sound"]).count("href='#input-0'") == 6
