"""TensorRT and TensorRT-RTX plans: loaded by whichever runtime is there, and run on a GPU."""
