"""What generation_config.json of a recogniser asks for: it is followed, named in a note, or refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

pytest.importorskip("transformers")

from tokexport.errors import RequestError
from tokexport.exporter.opening import open_source


def changed(folder: Path, target: Path, **settings: object) -> str:
    """A copy of a folder whose generation_config.json has these settings as well."""
    path = Path(shutil.copytree(folder, target)) / "generation_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))
    return str(target)


def test_a_folder_that_lets_no_word_be_said_is_refused(tiny_whisper_folder, tmp_path):
    source = open_source(changed(tiny_whisper_folder, tmp_path / "mute", suppress_tokens=[*range(174)]), parts="all")
    with pytest.raises(RequestError, match="let no word follow a prompt"):
        source.language(40)


def test_beams_and_penalties_that_are_not_followed_are_named(tiny_whisper_folder, tmp_path):
    odd = changed(tiny_whisper_folder, tmp_path / "odd", num_beams=5, suppress_tokens=[9])
    (note,) = open_source(odd, parts="all").notes
    assert "asks for num_beams=5:" in note and not open_source(str(tiny_whisper_folder), parts="all").notes
