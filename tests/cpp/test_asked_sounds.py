"""A speech model with a language model through the C++ runtime as in Python: a sound and ids in, text out."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny_audio
from cpp_build import Calls
from tokexport.exporter.families.spoken import RATE, spoken
from tokexport.exporter.pipeline import export
from tokexport.runtimes.load import load


@pytest.mark.slow
def test_a_granite_speech_folder_answers_as_in_python(cpp: Calls, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    folder = tiny_audio.granite_speech(tmp_path / "folder")
    settings = {"method": "kcenter_merge", "ratio": "0.75", "verify": False, "prompt_length": 24, "answer_length": 16}
    path = export(str(folder), tmp_path / "b", **settings, window=3).bundle
    session, said = load(path, threads=1), set()
    ids = session.ids("What is in w17 w18 ?")
    for wave in spoken(4, 3 * RATE):
        found, here = cpp.sound("generate", wave, bundle=path, prompt_ids=ids, keep=True), session.generate(wave, ids)
        assert found["ids"] == here.ids and found["text"] == here.text
        said |= set(here.ids)
    assert len(said) > 2
