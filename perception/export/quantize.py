"""Static INT8 of an ONNX graph by onnxruntime's quantizer: QDQ, weights by channel, ranges from frames."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from perception.errors import PerceptionError, missing_extra

_KINDS = ["Conv", "MatMul", "Gemm"]


def quantized(model: bytes, examples: Iterable[dict[str, np.ndarray]]) -> bytes:
    """
    Args:
        examples: inputs by name, from which the ranges of activations are taken.

    Raises:
        PerceptionError: onnxruntime's quantizer is not installed.
    """
    try:
        from onnxruntime import quantization
        from onnxruntime.quantization.shape_inference import quant_pre_process
    except ImportError:
        raise PerceptionError(missing_extra("export", "--format onnx-int8: needs onnxruntime and onnx")) from None

    class Examples(quantization.CalibrationDataReader):
        left = iter(examples)

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.left, None)

    with tempfile.TemporaryDirectory() as folder:
        plain, prepared, small = (Path(folder) / name for name in ("plain.onnx", "prepared.onnx", "small.onnx"))
        plain.write_bytes(model)
        logging.disable(logging.WARNING)  # of the quantizer, on what it leaves as it is
        try:
            quant_pre_process(str(plain), str(prepared), skip_symbolic_shape=True)  # folds constants into weights
            quantization.quantize_static(
                str(prepared), str(small), Examples(), op_types_to_quantize=_KINDS, per_channel=True
            )
        finally:
            logging.disable(logging.NOTSET)
        return small.read_bytes()
