"""What a bundle's export is measured against: torch.onnx.export of the same modules, and nothing else.

python benchmarks/plain_export.py FOLDER OUT --prompt-length P
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from tokexport.exporter.opening import open_source
from tokexport.exporter.sources.calling import arguments
from tokexport.exporter.sources.checkpoint import lengths_of


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("out", type=Path)
    parser.add_argument("--prompt-length", type=int)
    asked = parser.parse_args()
    source = open_source(asked.folder, parts="all", lengths=lengths_of(asked.prompt_length, None))
    for graph in (source.encoder, *source.language(source.tokens)):
        assert graph.module is not None
        positional, keywords = arguments(graph.module.eval(), graph.inputs)
        names = {"input_names": list(graph.inputs), "output_names": list(graph.outputs)}
        with torch.no_grad():
            program = torch.onnx.export(
                graph.module, positional, kwargs=keywords, dynamo=True, opset_version=18, verbose=False, **names
            )
        assert program is not None
        asked.out.mkdir(exist_ok=True)
        program.save(asked.out / f"{graph.role}.onnx", external_data=True)


if __name__ == "__main__":
    main()
