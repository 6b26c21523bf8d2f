"""Other people's voxelization, for :mod:`benchmarks.voxelize`; run by an interpreter that has spconv.

Stands alone: it imports nothing of this package. Reads one JSON request a line and answers each with a line:

    {"peer": "spconv", "points": "cloud.npy", "cell_size": [x, y, z], "bounds": [low x, y, z, high x, y, z],
     "max_points": 20, "max_voxels": 30000}
    {"seconds": 0.0061, "voxels": 30000}                  or    {"error": "No module named 'spconv'"}

``seconds`` is what the call took, without reading the file and without setting up what a user sets up once.
"""

import functools
import json
import sys
import time

import numpy as np


def main() -> None:
    for line in sys.stdin:
        try:
            answer = answer_to(**json.loads(line))
        except Exception as error:  # whatever it is, the other side says it
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)


def answer_to(peer: str, points: str, cell_size: list, bounds: list, max_points: int, max_voxels: int) -> dict:
    cloud = load(points)
    call = prepare(peer, cloud.shape[1], tuple(cell_size), tuple(bounds), max_points, max_voxels)
    start = time.perf_counter()
    voxels = call(cloud)
    return {"seconds": time.perf_counter() - start, "voxels": int(voxels)}


@functools.lru_cache(maxsize=1)
def load(path: str) -> np.ndarray:
    return np.load(path, allow_pickle=False)


@functools.lru_cache(maxsize=3)
def prepare(peer: str, channels: int, cell_size: tuple, bounds: tuple, max_points: int, max_voxels: int):
    """A function of the points [N, C] that returns the number of voxels."""
    return PEERS[peer](channels, cell_size, bounds, max_points, max_voxels)


def spconv(channels, cell_size, bounds, max_points, max_voxels):
    """Hard voxelization alone: points [V, max_points, C], coordinates and counts."""
    from cumm import tensorview
    from spconv.utils import Point2VoxelCPU3d

    generator = Point2VoxelCPU3d(cell_size, bounds, channels, max_voxels, max_points)
    return lambda cloud: len(generator.point_to_voxel(tensorview.from_numpy(cloud))[2].numpy())


def spconv_mean(channels, cell_size, bounds, max_points, max_voxels):
    """The same, then the mean of the points of each voxel, in torch: the MeanVFE of OpenPCDet."""
    import torch
    from cumm import tensorview
    from spconv.utils import Point2VoxelCPU3d

    torch.set_num_threads(1)
    generator = Point2VoxelCPU3d(cell_size, bounds, channels, max_voxels, max_points)

    def call(cloud):
        voxels, _, counts = generator.point_to_voxel(tensorview.from_numpy(cloud))
        voxels, counts = torch.from_numpy(voxels.numpy()), torch.from_numpy(counts.numpy())
        return len(voxels.sum(dim=1) / counts[:, None])

    return call


def numba_grid(channels, cell_size, bounds, max_points, max_voxels):
    """Hard voxelization through a dense grid of indices, filled anew for every cloud: SECOND's, compiled by numba."""
    import numba

    low, high, size = np.float32(bounds[:3]), np.float32(bounds[3:]), np.float32(cell_size)
    shape = tuple(int(n) for n in np.round((high - low) / size))

    @numba.njit
    def fill(cloud, low, size, shape, index, voxels, counts):
        occupied = 0
        for i in range(len(cloud)):
            x = int(np.floor((cloud[i, 0] - low[0]) / size[0]))
            y = int(np.floor((cloud[i, 1] - low[1]) / size[1]))
            z = int(np.floor((cloud[i, 2] - low[2]) / size[2]))
            if x < 0 or y < 0 or z < 0 or x >= shape[0] or y >= shape[1] or z >= shape[2]:
                continue
            own = index[x, y, z]
            if own < 0:
                if occupied == len(voxels):
                    continue
                own = index[x, y, z] = occupied
                occupied += 1
            if counts[own] < voxels.shape[1]:
                voxels[own, counts[own]] = cloud[i]
                counts[own] += 1
        return occupied

    def call(cloud):
        index = np.full(shape, -1, np.int32)
        voxels = np.zeros((max_voxels, max_points, channels), np.float32)
        counts = np.zeros(max_voxels, np.int32)
        return fill(cloud, low, size, shape, index, voxels, counts)

    return call


PEERS = {"spconv": spconv, "spconv_mean": spconv_mean, "numba_grid": numba_grid}

if __name__ == "__main__":
    main()
