"""NVIDIA GPUs through the CUDA driver: devices, memory, streams, graphs, kernels."""
