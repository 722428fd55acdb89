"""What TensorRT was seen to say (NVIDIA/TensorRT issues 2072, 2176, 4258; TensorRT-RTX 1.7.1), and what that means."""

from __future__ import annotations

import pytest
from tokexport.errors import GraphError, MissingError
from tokexport.runtimes.tensorrt import failures as engine_errors
from tokexport.runtimes.tensorrt.failures import ParserError, crashed, refused, translate

SAID = [
    (
        "[defaultAllocator.cpp::allocate::31] Error Code 1: Cuda Runtime (out of memory)\n"
        "Requested amount of GPU memory (15485030400 bytes) could not be allocated.\n"
        "IBuilder::buildSerializedNetwork: Error Code 10: Internal Error (Could not find any implementation for node "
        "{ForeignNode[/1/Constant_36_output_0.../1/Slice_4]}.)",
        engine_errors.BuildMemoryError,
        "not enough memory",
    ),
    (
        "UNSUPPORTED_STATESkipping tactic 0 due to insufficient memory on requested size of 11580055552 detected",
        engine_errors.BuildMemoryError,
        "--precision fp16",
    ),
    (
        "Error Code 10: Internal Error (Could not find any implementation for node node_MatMul_3.)",
        GraphError,
        "node_MatMul_3",
    ),
    (
        "[stdArchiveReader.cpp::StdArchiveReader::40] Error Code 1: Serialization (Serialization assertion "
        "stdVersionRead == serializationVersion failed.Version tag does not match. Note: Current Version: 213, "
        "Serialized Engine Version: 205)\n[runtime.cpp::deserializeCudaEngine::50] Error Code 4: Internal Error",
        engine_errors.EngineVersionError,
        "tokexport build",
    ),
    (
        "IRuntime::deserializeCudaEngine: Error Code 1: Serialization (Serialization assertion header.magicTag == "
        "kEXPECTED_MAGIC_TAG failed.Trying to load an engine created with incompatible serialization version",
        engine_errors.EngineVersionError,
        "another version",
    ),
    (
        "The engine plan file is generated on an incompatible device, expecting compute 8.6 got compute 7.5, please "
        "rebuild.",
        engine_errors.EngineDeviceError,
        "another GPU",
    ),
    (
        "IBuilder::buildSerializedNetwork: Error Code 4: API Usage Error (ITopKLayer suspect: suspect: K exceeds the "
        "maximum value allowed (3840).",
        GraphError,
        "suspect.*--keep",
    ),
    (
        "Error Code 4: API Usage Error (Network has dynamic or shape inputs, but no optimization profile has been",
        GraphError,
        "static shapes",
    ),
    (
        "(cudaError 35: CUDA driver version is insufficient for CUDA runtime version)",
        MissingError,
        "no GPU here.*doctor",
    ),
    ("something that was never seen", GraphError, "something that was never seen"),
    ("", GraphError, "it gives no reason"),
]


@pytest.mark.parametrize(("said", "kind", "words"), SAID)
def test_what_it_says_becomes_what_to_do(said: str, kind: type, words: str) -> None:
    error = translate(said.splitlines(), doing="TensorRT 10.3 cannot build the engine", where="graph encoder")
    assert type(error) is kind
    assert error.what.startswith("TensorRT 10.3 cannot build the engine: ") and "graph encoder" in str(error)
    with pytest.raises(kind, match=f"(?s){words}"):
        raise error


def test_a_child_that_the_system_ended_ran_out_of_memory() -> None:
    error = crashed(-9, "", doing="It cannot build", where="graph encoder")
    assert isinstance(error, engine_errors.BuildMemoryError) and error.exit_code == 3
    other = crashed(-11, "last words", doing="It cannot build", where="graph encoder")
    assert type(other) is GraphError and "ended with -11: last words" in str(other)


def test_a_refused_node_of_a_compressor_names_the_form_to_use_instead() -> None:
    inside = ParserError("pick", "NonZero", "no such op (in function TokexportApet_01234567)")
    error = refused(inside, doing="It", where="graph encoder", form="portable", others=("plugin", "inlined"))
    assert "NonZero 'pick': no such op (in function TokexportApet_01234567)" in str(error)
    assert error.fix == "Use --form plugin or --form inlined."
    outside = refused(ParserError("n", "Det", "no"), doing="It", where="g", form="portable", others=("plugin",))
    assert outside.fix == "Change that node where the model is made."


def test_a_plugin_that_is_not_there_is_missing() -> None:
    node = ParserError("merge", "TokexportApet", 'creator && "Plugin not found"')
    error = refused(node, doing="It", where="graph encoder", form="plugin", others=("portable",))
    assert isinstance(error, MissingError) and error.fix == "Run: tokexport plugins build. Or use --form portable."


def test_what_a_plugin_refuses_comes_with_its_reason_and_another_form() -> None:
    node = ParserError("merge", "TokexportApet", "N is 99999. The kernels take 1 to 16384.")
    error = refused(node, doing="It", where="graph encoder", form="plugin", others=("portable",))
    assert type(error) is GraphError and "TokexportApet 'merge': N is 99999" in str(error)
    assert error.fix == "Use --form portable."
