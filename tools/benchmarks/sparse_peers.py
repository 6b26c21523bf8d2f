"""Other people's sparse convolution, for :mod:`benchmarks.sparse_conv`; run by an interpreter that has spconv.

Stands alone: it imports nothing of this package. Reads one JSON request a line and answers each with a line:

    {"peer": "spconv", "coordinates": "v.npy", "features": "f.npy", "weight": "w.npy", "shape": [40, 1440, 1440],
     "kept": true, "out": "out.npy"}
    {"seconds": 0.4, "peak_mb": 95.1}                     or    {"error": "No module named 'spconv'"}

Coordinates are int32 [V, 4] (sample, z, y, x), features float32 [V, C], weights float32 [27, C, C_out] with z slowest.
``kept``: which rows meet is known from a layer before. What the layer gives goes to ``out``, if it is not null.
"""

import ctypes
import functools
import json
import sys
import time
from pathlib import Path

import numpy as np


def main() -> None:
    for line in sys.stdin:
        try:
            answer = answer_to(**json.loads(line))
        except Exception as error:  # whatever it is, the other side says it
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)


def answer_to(peer: str, coordinates: str, features: str, weight: str, shape: list, kept: bool, out: str | None):
    if peer != "spconv":
        raise ValueError(f"no peer {peer}")
    import torch

    with torch.no_grad():
        call = prepare(coordinates, features, weight, tuple(shape), kept)
        ctypes.CDLL(None).malloc_trim(0)  # memory that an allocator kept would hide what the call takes from it
        Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark (man proc)
        before = status_kb("VmRSS")
        start = time.perf_counter()
        result = call()
        seconds = time.perf_counter() - start
        peak_mb = (status_kb("VmHWM") - before) / 1000
    if out is not None:
        np.save(out, result.numpy())
    return {"seconds": seconds, "peak_mb": peak_mb}


@functools.lru_cache(maxsize=4)
def prepare(coordinates: str, features: str, weight: str, shape: tuple, kept: bool):
    """A call of one submanifold layer of 3 x 3 x 3."""
    import spconv.pytorch as spconv
    import torch

    torch.set_num_threads(1)
    indices, values, weights = (torch.from_numpy(np.load(path)) for path in (coordinates, features, weight))
    layer = spconv.SubMConv3d(weights.shape[1], weights.shape[2], 3, bias=False, indice_key="cells")
    layer.weight.data = weights.unflatten(0, (3, 3, 3)).permute(4, 0, 1, 2, 3).contiguous()
    batch_size = int(indices[:, 0].max()) + 1
    first = layer(spconv.SparseConvTensor(values, indices, list(shape), batch_size)) if kept else None

    def call():
        x = spconv.SparseConvTensor(values, indices, list(shape), batch_size)
        if first is not None:
            x.indice_dict = first.indice_dict
        return layer(x).features

    return call


def status_kb(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(key)).split()[1])


if __name__ == "__main__":
    main()
