"""What runs the graphs of an exported model: onnxruntime, or torch for its own formats.

Each opener takes a file and returns the text of its card, and a function from inputs to outputs by name.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from perception.commit import current, read_file
from perception.errors import missing_extra
from perception.export.card import KEY, ModelError
from perception.files import open_regular

Run = Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]


def open_onnx(path: Path, threads: int) -> tuple[str, Run]:
    try:
        import onnxruntime
    except ImportError:
        raise ModelError(missing_extra("export", f"{path}: needs onnxruntime")) from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # which stalls a busy machine
    options.log_severity_level = 3
    model = _read(path)
    try:
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # of many kinds, without a common base
        raise ModelError(f"{path}: an ONNX model was expected: {_line(error)}") from None
    wanted = [slot.name for slot in session.get_inputs()]
    names = [slot.name for slot in session.get_outputs()]

    def run(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return dict(zip(names, session.run(names, {name: inputs[name] for name in wanted})))

    return session.get_modelmeta().custom_metadata_map.get(KEY, ""), run


def open_torch_export(path: Path, threads: int) -> tuple[str, Run]:
    import torch

    extra = {f"{KEY}.json": ""}
    _read(path)
    try:
        module: Any = torch.export.load(current(path), extra_files=extra).module()
    except Exception as error:  # of many kinds, without a common base
        raise ModelError(f"{path}: an exported program was expected: {_line(error)}") from None
    return extra[f"{KEY}.json"], _in_torch(module)


def open_aoti(path: Path, threads: int) -> tuple[str, Run]:
    import torch

    _read(path)
    try:
        package: Any = torch._inductor.aoti_load_package(str(current(path)))
    except Exception as error:  # of many kinds, without a common base
        raise ModelError(f"{path}: an AOTInductor package was expected: {_line(error)}") from None
    return package.loader.get_metadata().get(KEY, ""), _in_torch(package)


def _in_torch(module: Any) -> Run:
    import torch

    @torch.inference_mode()
    def run(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        found = module(*(torch.from_numpy(value) for value in inputs.values()))
        return {name: value.numpy() for name, value in found.items()}

    return run


# By format: how its files' names end, and what opens them.
FORMATS = {
    "onnx": (".onnx", open_onnx),
    "onnx-int8": (".int8.onnx", open_onnx),
    "torch-export": (".pt2", open_torch_export),
    "aoti": (".aoti.pt2", open_aoti),
}


def _read(path: Path) -> bytes:
    try:
        open_regular(path).close()
        return read_file(path)
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror or error}") from None


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
