"""What the doctor says of simulated machines."""

from __future__ import annotations

import pytest
from tokexport.exporter.doctor import diagnose, nvidia, packages, runtimes, sound, tools
from tokexport.exporter.doctor.findings import Finding, version
from tokexport.exporter.doctor.machine import Machine, Ran
from toy_machine import jetson, machine, raising


def said(probe, where: Machine) -> list[Finding]:
    return list(probe(where))


def one(probe, where: Machine, name: str) -> Finding:
    (found,) = [finding for finding in probe(where) if finding.name == name]
    return found


def everything(where: Machine, **options) -> list[Finding]:
    return [finding for _, findings in diagnose(where, **options) for finding in findings]


def test_a_workstation_with_everything_has_no_problem():
    report = diagnose(machine())
    assert sound(report)
    assert {finding.name for _, findings in report for finding in findings if finding.status == "warning"} == {
        "NvInfer.h",
    }


@pytest.mark.parametrize(
    "where",
    [
        machine(),
        jetson(),
        jetson("# R35 (release), REVISION: 4.1, GCID: 1"),
        machine(packages=dict.fromkeys(("torch", "onnxruntime-gpu", "onnx"))),
        machine(programs=(), disk=1, memory=(1 << 30, 1 << 20), python=(3, 9, 1)),
        machine(
            packages={"onnxruntime": "1.23.0", "tensorrt": "11.1.0", "tensorrt-cu12": "10.3", "tensorrt-cu13": "11"}
        ),
        machine(children={word: Ran(-6, "", "Aborted") for word in ("InferenceSession", "import tensorrt")}),
        machine(commands={"--query-gpu": Ran(9, "", "failed"), "nvidia-smi": Ran(9, "NVIDIA-SMI has failed")}),
        Machine((3, 11), "Darwin", "arm64", {}, (), 1, (0, 0), 0),
    ],
)
def test_every_warning_and_problem_has_a_cure(where):
    found = everything(where)
    assert found
    for finding in found:
        assert finding.what and bool(finding.fix) == (finding.status != "ok"), finding


def test_a_probe_that_fails_is_a_line_and_stops_no_other():
    broken = machine(read=raising(RuntimeError("no such thing")))
    found = everything(broken)
    failed = [finding for finding in found if "could not be checked: RuntimeError: no such thing" in finding.what]
    assert failed and all(finding.status == "problem" for finding in failed)
    assert any(finding.name == "espeak-ng" and finding.status == "ok" for finding in found)
    assert not sound(diagnose(broken))


def test_python_below_3_10_is_a_problem():
    assert one(packages.python, machine(python=(3, 8, 10)), "Python").status == "problem"
    assert one(packages.python, machine(python=(3, 10, 0)), "Python").status == "ok"


def test_base_packages_are_there_new_enough_and_can_be_imported():
    (fine,) = said(packages.base, machine())
    assert fine.status == "ok" and "onnx 1.19.0" in fine.what and "tomli" not in fine.what
    assert one(packages.base, machine(packages={"onnx": None}), "onnx").status == "problem"
    old = one(packages.base, machine(packages={"onnx": "1.9.0"}), "onnx")
    assert old.status == "problem" and "older than 1.18" in old.what and old.fix == 'pip install -U "onnx>=1.18"'
    torn = {"importlib": Ran(0, "try click\ntry numpy\nbad numpy ImportError: libopenblas.so.0\ntry onnx\ndone\n")}
    broken = one(packages.base, machine(children=torn), "numpy")
    assert broken.status == "problem" and "libopenblas" in broken.what and "force-reinstall" in broken.fix
    dead = {"importlib": Ran(-11, "try click\ntry numpy\ntry onnx\n", "Segmentation fault")}
    assert "ended the process with -11" in one(packages.base, machine(children=dead), "onnx").what


def test_tomli_is_needed_on_3_10_alone():
    assert one(packages.base, machine(python=(3, 10, 1)), "tomli").status == "problem"


def test_deep_finds_a_torch_that_cannot_be_imported():
    torn = {"importlib": Ran(0, "try torch\nbad torch OSError: libcudart.so.12\ntry transformers\ndone\n")}
    assert not [finding for finding in said(packages.extras, machine(children=torn)) if finding.status != "ok"]
    (found,) = said(packages.deep, machine(children=torn))
    assert found.status == "problem" and "libcudart" in found.what
    assert any(finding.name == "torch" for finding in everything(machine(children=torn), deep=True))


def test_extras_that_are_absent_or_old_are_warnings():
    assert one(packages.extras, machine(packages={"torch": None}), "[export]").status == "warning"
    old = one(packages.extras, machine(packages={"torch": "2.5.0"}), "[export]")
    assert old.status == "warning" and "torch 2.5.0 (needs 2.9)" in old.what


def test_two_builds_of_onnxruntime_are_a_problem_and_one_is_not():
    assert said(packages.pairs, machine()) == []
    both = one(packages.pairs, machine(packages={"onnxruntime": "1.23.0"}), "onnxruntime")
    assert both.status == "problem"
    assert both.fix == "pip uninstall -y onnxruntime onnxruntime-gpu && pip install onnxruntime-gpu"


@pytest.mark.parametrize(("tensorrt", "warned"), [("10.14.1", False), ("11.1.0", True)])
def test_the_tensorrt_provider_pairs_with_tensorrt_10(tensorrt, warned):
    found = said(packages.pairs, machine(packages={"tensorrt": tensorrt}))
    assert [finding.status for finding in found] == ["warning"] * warned


def test_what_pip_says_of_our_packages_is_passed_on():
    lines = (
        "onnx 1.19.0 has requirement protobuf<8,>=4.25.1, but you have protobuf 3.20.1.\n"
        "torch 2.9.1 requires sympy, which is not installed.\n"
        "somebody-else 1.0 requires other, which is not installed.\n"
    )
    found = said(packages.pairs, machine(children={"run_module": Ran(1, lines)}))
    assert [finding.fix for finding in found] == ['pip install -U "protobuf<8,>=4.25.1"', 'pip install -U "sympy"']


def test_onnxruntime_is_tried_and_not_believed():
    fine = one(runtimes.onnxruntime, machine(), "onnxruntime-gpu")
    assert fine.status == "ok" and fine.what.endswith("providers: CUDA, CPU")
    lacks = "CUDAExecutionProvider does not load here: libcublasLt.so.13 is not found\nRun: pip install x\n"
    gone = one(runtimes.onnxruntime, machine(children={"require(": Ran(0, lacks)}), "ort: cuda")
    assert gone.status == "warning" and "libcublasLt" in gone.what and gone.fix == "pip install x"
    loads = one(runtimes.onnxruntime, machine(), "ort: cuda")
    assert (loads.status, loads.what) == ("ok", "loads")
    died = one(runtimes.onnxruntime, machine(children={"require(": Ran(-11)}), "ort: cuda")
    assert died.status == "warning" and "signal 11" in died.what
    torn = {"InferenceSession": Ran(1, "", "Traceback\nImportError: libcudnn.so.9: cannot open shared object file")}
    broken = one(runtimes.onnxruntime, machine(children=torn), "onnxruntime-gpu")
    assert broken.status == "problem" and "libcudnn" in broken.what
    assert (
        one(runtimes.onnxruntime, machine(packages={"onnxruntime-gpu": "1.17.1"}), "onnxruntime-gpu").status
        == "problem"
    )
    assert one(runtimes.onnxruntime, machine(packages={"onnxruntime-gpu": None}), "onnxruntime").status == "warning"


def test_tensorrt_that_crashes_is_a_problem_and_one_that_is_absent_a_warning():
    crash = {"import tensorrt;": Ran(-6, "", "")}
    assert "signal 6" in one(runtimes.tensorrt, machine(children=crash), "TensorRT").what
    absent = {"import tensorrt;": Ran(1, "", "ModuleNotFoundError: No module named 'tensorrt'")}
    assert one(runtimes.tensorrt, machine(children=absent), "TensorRT").status == "warning"
    half = machine(children=absent, packages={"tensorrt": "10.14"})
    assert one(runtimes.tensorrt, half, "TensorRT").status == "problem"
    assert "system-site-packages" in one(runtimes.tensorrt, jetson(children=absent), "TensorRT").fix


def test_tensorrt_8_takes_none_of_our_graphs():
    old = jetson(children={"import tensorrt;": Ran(0, "8.5.2.2\n")})
    found = one(runtimes.tensorrt, old, "TensorRT")
    assert found.status == "warning" and "IPluginV3" in found.what and "JetPack 6.1" in found.fix
    assert one(runtimes.tensorrt, jetson(), "TensorRT").status == "ok"


def test_rtx_older_than_1_7_takes_no_plugin():
    found = one(runtimes.tensorrt_rtx, machine(packages={"tensorrt-rtx": "1.4"}), "TensorRT-RTX")
    assert found.status == "warning" and "our plugins" in found.what
    assert said(runtimes.tensorrt_rtx, jetson()) == []


def test_headers_are_found_where_they_are_said_to_be():
    text = "#define NV_TENSORRT_MAJOR 10\n#define NV_TENSORRT_MINOR 3\n"
    at = "/opt/trt/NvInferVersion.h"
    assert one(runtimes.headers, machine(files={at: text}), "NvInfer.h").status == "warning"
    named = machine(files={at: text}, environment={"TENSORRT_INCLUDE_DIR": "/opt/trt"})
    assert one(runtimes.headers, named, "NvInfer.h").what == "/opt/trt, TensorRT 10.3"
    packaged = jetson(files={"/usr/include/aarch64-linux-gnu/NvInferVersion.h": text})
    assert one(runtimes.headers, packaged, "NvInfer.h").status == "ok"


def test_the_plugin_library_is_the_one_that_is_found_and_loads():
    assert one(runtimes.plugins, machine(), "plugin library").what.endswith("plugins.so: TokexportApet, TokexportTopk")
    absent = one(runtimes.plugins, machine(children={"library.find": Ran(0, "")}), "plugin library")
    assert (absent.status, absent.fix) == ("warning", "tokexport plugins build")
    kernels = one(
        runtimes.plugins, machine(children={"library.find": Ran(0, "/cache/kernels.so\n\n")}), "plugin library"
    )
    assert kernels.status == "warning"
    broken = Ran(1, "", "tokexport.errors.MissingError: TOKEXPORT_PLUGINS names /nowhere, which is not there.")
    found = one(runtimes.plugins, machine(children={"library.find": broken}), "plugin library")
    assert found.status == "problem" and "/nowhere" in found.what


def test_gpu_and_driver():
    assert "RTX 4090, compute capability 8.9" in one(nvidia.gpu, machine(), "GPU").what
    assert one(nvidia.gpu, machine(programs=()), "GPU").status == "ok"
    torn = {
        "--query-gpu": Ran(18, ""),
        "nvidia-smi": Ran(18, "Failed to initialize NVML: Driver/library version mismatch"),
    }
    broken = one(nvidia.gpu, machine(commands=torn), "GPU")
    assert broken.status == "problem" and "mismatch" in broken.what and broken.fix.startswith("Reboot")
    assert said(nvidia.gpu, jetson()) == []
    loaded = {"/proc/driver/nvidia/version": "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.95.05  Tue"}
    assert one(nvidia.gpu, machine(files=loaded, programs=()), "GPU").fix == "sudo apt-get install nvidia-utils-580"


def test_packages_built_for_a_newer_cuda_than_the_driver_supports():
    assert said(nvidia.cuda_versions, machine()) == []
    old = {"--query-gpu": Ran(0, "Tesla T4, 535.183.01, 7.5"), "nvidia-smi": Ran(0, "CUDA Version: 12.2")}
    found = said(
        nvidia.cuda_versions, machine(commands=old, packages={"torch": "2.9.1+cu130", "tensorrt-cu13": "10.14"})
    )
    assert [(finding.name, finding.status) for finding in found] == [("torch", "problem"), ("tensorrt-cu13", "problem")]
    assert "580" in found[0].fix
    assert said(nvidia.cuda_versions, machine(commands=old)) == []
    nvcc = one(nvidia.toolkit, machine(commands=old), "nvcc")
    assert nvcc.status == "warning" and "supports 12.2" in nvcc.what


@pytest.mark.parametrize(
    ("release", "status", "text"),
    [
        ("# R35 (release), REVISION: 4.1, GCID: 1", "warning", "JetPack 5"),
        ("# R36 (release), REVISION: 3.0, GCID: 1", "warning", "JetPack 6.0"),
        ("# R36 (release), REVISION: 4.3, GCID: 1", "ok", "36.4.3, JetPack 6.1 or 6.2"),
        ("# R38 (release), REVISION: 2.0, GCID: 1", "ok", "JetPack 7.0"),
        ("# R39 (release), REVISION: 2.1, GCID: 1", "ok", "JetPack 7.2"),
        ("nonsense", "warning", "unknown release"),
    ],
)
def test_jetson_linux_and_its_jetpack(release, status, text):
    (found,) = said(nvidia.jetson, jetson(release))[:1]
    assert found.status == status and text in found.what


def test_a_container_without_the_nvidia_runtime_is_told():
    assert one(nvidia.jetson, jetson(programs=()), "tegrastats").status == "warning"
    assert [finding.name for finding in said(nvidia.jetson, jetson())] == ["JetPack"]


def test_disk_memory_and_espeak():
    assert one(tools.disk, machine(disk=1 << 30), "disk").status == "warning"
    assert one(tools.memory, machine(memory=(8 << 30, 1 << 30)), "memory").status == "warning"
    assert "systemctl" in one(tools.memory, jetson(memory=(8 << 30, 1 << 30)), "memory").fix
    assert one(tools.speech, machine(programs=()), "espeak-ng").fix == "sudo apt-get install espeak-ng"


def test_versions_compare_as_numbers():
    assert version("2.13.0+cpu") == (2, 13, 0) and version("10.3") > version("9.12")
    assert version("1.23.0rc1") == (1, 23, 0) and version("unknown") == ()
