"""Writes the graphs of a detector as files of one format, each with the card of the model in it."""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from perception.commit import read_file, write_files
from perception.errors import PerceptionError, missing_extra
from perception.export.backends import FORMATS
from perception.export.card import KEY, CameraCard
from perception.export.graphs import Graph, exported
from perception.export.quantize import quantized
from perception.export.runtime import load
from perception.model.detector import Detector
from perception.sample import Frame

OPSET = 20


def export(detector: Detector, folder: Path, form: str) -> list[Path]:
    """Write ``folder/NAME.onnx``, ``.pt2`` or ``.aoti.pt2`` for every graph, all or none; returns their paths.

    Args:
        form: "onnx", "torch-export" or "aoti"; the latter is compiled for this machine.

    Raises:
        PerceptionError: a detector that cannot be exported, or a package that the format needs is not installed.
        ResultsError: the files cannot be written.
    """
    card, graphs = exported(detector.eval())
    text = card.to_json()
    files = {f"{name}{FORMATS[form][0]}": _WRITERS[form](graph, text) for name, graph in graphs.items()}
    write_files(folder, files)
    return [folder / name for name in files]


def export_int8(folder: Path, frames: Sequence[Frame]) -> list[Path]:
    """Write ``folder/NAME.int8.onnx`` of the ONNX files there: encoders of images in INT8, the others as they are.

    Those take most of the time, and lose least: positions in metres do not fit into eight bits.

    Args:
        frames: whose images the ranges of activations are taken from.

    Raises:
        PerceptionError: there are no ONNX files, or frames of none of the model's images.
    """
    model = load(folder, "onnx")
    files = {}
    for name in model.graphs:
        data = read_file(folder / f"{name}.onnx")
        if isinstance(model.card.sensors.get(name), CameraCard):
            examples = [model.encoder_inputs(name, frame.data[name]) for frame in frames if name in frame.data]
            if not examples:
                raise PerceptionError(f"--calibrate: frames with {name} were expected, found none in {len(frames)}")
            data = quantized(data, examples)
        files[f"{name}{FORMATS['onnx-int8'][0]}"] = data
    write_files(folder, files)
    return [folder / name for name in files]


def _program(graph: Graph) -> torch.export.ExportedProgram:
    arguments, shapes = tuple(graph.inputs.values()), tuple(graph.free.get(name, {}) for name in graph.inputs)
    with torch.no_grad():
        return torch.export.export(graph.module, arguments, dynamic_shapes=(shapes,))


def _onnx(graph: Graph, card: str) -> bytes:
    try:
        import onnx
        import onnxscript  # noqa: F401  # which torch's exporter uses
    except ImportError:
        raise PerceptionError(missing_extra("export", "--format onnx: needs onnx and onnxscript")) from None
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        for name in ("onnxscript", "onnx_ir", "torch.onnx"):  # which say what they do to a graph
            logging.getLogger(name).setLevel(logging.ERROR)
        outputs = list(graph.module(*graph.inputs.values()))
        program: Any = torch.onnx.export(
            _program(graph), dynamo=True, opset_version=OPSET, verbose=False, optimize=False,
            input_names=list(graph.inputs), output_names=outputs,
        )  # fmt: skip  # not optimised, which takes minutes: runtimes do that themselves
    model = program.model_proto
    foreign = {node.domain for node in model.graph.node} - {"", "ai.onnx"}
    if foreign or model.functions:
        raise PerceptionError(f"--format onnx: standard operators were expected, found those of {foreign}")
    onnx.helper.set_model_props(model, {KEY: card})
    return model.SerializeToString()


def _torch_export(graph: Graph, card: str) -> bytes:
    with tempfile.NamedTemporaryFile(suffix=".pt2") as file:
        torch.export.save(_program(graph), file.name, extra_files={f"{KEY}.json": card})
        return Path(file.name).read_bytes()


def _aoti(graph: Graph, card: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "graph.pt2"
        configs = {"aot_inductor.metadata": {KEY: card}}
        torch._inductor.aoti_compile_and_package(_program(graph), package_path=str(path), inductor_configs=configs)
        return path.read_bytes()


_WRITERS: dict[str, Callable[[Graph, str], bytes]] = {"onnx": _onnx, "torch-export": _torch_export, "aoti": _aoti}
