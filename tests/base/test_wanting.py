"""The end of a run says what was skipped for want of what, and how to get it."""

from __future__ import annotations

import wanting


def test_reasons_are_grouped_by_what_is_lacking_most_first():
    headers = ["plugin library: there are no TensorRT headers (TENSORRT_INCLUDE_DIR)"] * 3
    said = wanting.lines(
        ["kernels on the CPU: there is no g++", *headers, "the header in C: there is no gcc", "torch is installed here"]
    )
    assert said == [
        "    3  TensorRT's headers (TENSORRT_INCLUDE_DIR)",
        "    2  g++",
        "    1  torch is installed here",
        "to run what can be: apt-get install -y g++",
    ]


def test_one_command_brings_all_packages_of_both_kinds():
    _, command = wanting.groups(
        [
            "could not import 'tensorrt_rtx': No module named 'tensorrt_rtx'",
            "apt-get install espeak-ng",
            "C++ runtime: apt install cmake ninja-build doctest-dev",
            "the README's spoken sentence: there is no espeak-ng",
        ]
    )
    assert command == "apt-get install -y cmake doctest-dev espeak-ng ninja-build && pip install tensorrt-rtx"


def test_nothing_is_said_of_a_run_without_skips_and_no_command_where_none_helps():
    assert wanting.lines([]) == []
    assert wanting.lines(["kernels on a GPU: this machine lacks nvcc"]) == [
        "    1  an NVIDIA GPU with a torch built for CUDA"
    ]
