"""Kernels: voxelization, pooling of image features, window attention, sparse convolution; torch, numba and Triton."""
