"""Profiles of devices: every figure has its source, and what is wrong in a file is named."""

from __future__ import annotations

import datetime
from pathlib import Path

import pytest
from tokexport.devices import profiles
from tokexport.errors import RequestError

ALL = ("agx-orin-64gb", "orin-nano-8gb", "orin-nx-16gb", "rtx-4090", "thor-t5000")
MINIMAL = """
title = "A device"
usual = "10.3"
precision = "fp16"
precision_why = "because"
[figures]
compute_capability = { value = "8.7", source = "sheet" }
memory = { value = 2, source = "sheet" }
memory_kind = { value = "own", source = "sheet" }
memory_bandwidth = { value = 100, source = "sheet" }
cuda_cores = { value = 1, source = "sheet" }
dla = { value = 0, source = "sheet" }
fp16 = { value = true, source = "sheet" }
bf16 = { value = false, source = "sheet" }
[[stacks]]
name = "S"
tensorrt = "10.3"
source = "sheet"
[sources.sheet]
document = "a data sheet"
url = "https://example.org/sheet"
seen = 2026-11-01
read = "document"
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "device.toml"
    path.write_text(text)
    return path


def test_the_devices_are_these():
    assert profiles.names() == ALL


@pytest.mark.parametrize("name", ALL)
def test_every_figure_and_stack_has_a_source_that_says_how_it_was_read(name):
    found = profiles.profile(name)
    for part in (*found.figures.values(), *found.stacks):
        source = found.sources[part.source]
        assert source.document and (source.url.startswith("https://") or source.read == "unverified")
        assert datetime.date(2026, 1, 1) < source.seen < datetime.date(2030, 1, 1)
    assert found.name == name and found.value(found.precision) is True


@pytest.mark.parametrize("name", ALL)
def test_figures_are_of_the_right_kind_and_size(name):
    found = profiles.profile(name)
    assert found.value("compute_capability") in {"8.7", "8.9", "11.0"}
    assert found.value("memory_kind") == ("own" if name == "rtx-4090" else "shared")
    assert 30 < found.value("memory_bandwidth") < 2000
    assert found.value("cuda_cores") % 128 == 0
    assert found.value("sms") in (None, found.value("cuda_cores") // 128)
    assert all(isinstance(found.value(each), bool) for each in ("fp16", "bf16", "fp8", "fp4"))
    assert found.value("memory") * 2**30 >= found.memory_bytes() > 0.8 * found.value("memory") * 2**30
    assert all(figure.note for key, figure in found.figures.items() if key.endswith(("tops", "tflops")))


def test_what_programs_see_of_the_memory_is_what_counts():
    nano = profiles.profile("orin-nano-8gb")
    assert nano.memory_bytes() == int(7.6 * 2**30)
    assert profiles.profile("rtx-4090").memory_bytes() == 24 * 2**30


def test_a_target_is_a_device_with_its_software():
    assert profiles.target("orin-nano-8gb").stack.name == "JetPack 6.2"
    assert profiles.target("orin-nano-8gb@8.5").stack.name == "JetPack 5.1"
    assert str(profiles.target("thor-t5000")) == "thor-t5000 (TensorRT 10.16, JetPack 7.2)"


def test_unknown_devices_and_versions_are_named_with_what_is_near():
    with pytest.raises(RequestError, match=r"'orin-nano'.*Did you mean orin-nano-8gb"):
        profiles.profile("orin-nano")
    with pytest.raises(RequestError, match=r"no TensorRT '7'.*orin-nano-8gb@10\.3 \(JetPack 6\.2\)"):
        profiles.target("orin-nano-8gb@7")


def test_a_minimal_file_is_read(tmp_path):
    assert profiles.read(written(tmp_path, MINIMAL)).memory_bytes() == 2 * 2**30


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('value = 100, source = "sheet"', "value = 100", "memory_bandwidth.source"),
        ('value = 100, source = "sheet"', 'value = 100, source = "memory"', "names the source 'memory'"),
        ('url = "https://example.org/sheet"', 'url = ""', "has no url"),
        ('url = "https://example.org/sheet"', 'url = "ftp://x"', "url"),
        ("seen = 2026-11-01\n", "", "seen"),
        ('read = "document"', 'read = "surely"', "read"),
        ('dla = { value = 0, source = "sheet" }\n', "", "figure dla is missing"),
        ("cuda_cores =", 'speed = { value = 1, source = "sheet" }\ncuda_cores =', "speed"),
        ('usual = "10.3"', 'usual = "10.4"', "in no stack"),
        (
            "[sources.sheet]",
            MINIMAL[MINIMAL.index("[sources") :].replace("sheet]", "idle]") + "[sources.sheet]",
            "idle",
        ),
    ],
)
def test_a_profile_that_is_wrong_is_refused_with_the_place(tmp_path, old, new, said):
    assert MINIMAL.count(old) == 1
    with pytest.raises(RequestError, match=r"the profile is wrong.*device\.toml") as error:
        profiles.read(written(tmp_path, MINIMAL.replace(old, new)))
    assert said in str(error.value)
