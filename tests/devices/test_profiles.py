"""Profiles of devices: every figure has its source, and what is wrong in a file is named."""

from __future__ import annotations

import datetime
from pathlib import Path

import pytest
from tokexport.devices import profiles
from tokexport.errors import RequestError

ALL = (
    *("agx-orin-32gb", "agx-orin-64gb", "orin-nano-4gb", "orin-nano-8gb", "orin-nx-16gb", "orin-nx-8gb"),
    *("rtx-3060", "rtx-3090", "rtx-4070", "rtx-4090", "rtx-5090", "thor-t4000", "thor-t5000"),
)
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
    assert found.value("compute_capability") in {"8.6", "8.7", "8.9", "11.0", "12.0"}
    assert found.value("memory_kind") == ("own" if name.startswith("rtx-") else "shared")
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


def test_a_profile_takes_from_the_one_it_is_like_what_follows_from_the_architecture():
    small, large = profiles.profile("orin-nano-4gb"), profiles.profile("orin-nano-8gb")
    assert small.stacks == large.stacks and small.figures["fp16"] == large.figures["fp16"]
    assert small.value("memory") == 4 and small.value("int8_tops") is None and "datasheet" not in small.sources
    assert profiles.profile("rtx-3090").value("compute_capability") == "8.6"


def test_a_profile_like_one_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(RequestError, match=r"like 'rtx-409'.*Did you mean rtx-4090"):
        profiles.read(written(tmp_path, 'like = "rtx-409"\n' + MINIMAL))


def test_a_file_of_ones_own_is_a_device(tmp_path):
    found = profiles.target(str(written(tmp_path, MINIMAL)))
    assert found.profile.name == "device" and found.stack.tensorrt == "10.3"
    with pytest.raises(RequestError, match=r"cannot be read.*none\.toml"):
        profiles.target(str(tmp_path / "none.toml"))
    with pytest.raises(RequestError, match=r"no TOML.*line 1"):
        profiles.target(str(written(tmp_path, "title = ]\n")))


@pytest.mark.parametrize("name", ["sm_86", "sm86", "SM_86"])
def test_a_compute_capability_is_the_known_device_with_the_least_memory(name):
    found = profiles.target(name).profile
    assert found.name == "sm86" and "RTX 3060" in found.title and found.value("compute_capability") == "8.6"
    with pytest.raises(RequestError, match=r"no known device has compute capability 5\.3.*sm_86"):
        profiles.target("sm_53")


def test_a_bad_file_is_named_and_does_not_break_the_list(tmp_path, monkeypatch):
    (tmp_path / "good.toml").write_text(MINIMAL)
    (tmp_path / "bad.toml").write_text("title = ]\n")
    monkeypatch.setattr(profiles, "_FOLDER", tmp_path)
    for cached in (profiles._built_in, profiles.names):
        cached.cache_clear()
    try:
        found, (wrong,) = profiles.known()
        assert [one.name for one in found] == ["good"] and "bad.toml" in wrong and "line 1" in wrong
    finally:
        monkeypatch.undo()
        for cached in (profiles._built_in, profiles.names):
            cached.cache_clear()
