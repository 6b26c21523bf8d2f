"""Kernels: voxelization, pooling of image features, window attention; plain torch references, numba and Triton."""
