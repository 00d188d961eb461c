"""The target `cuda`: launch plans of kernels of our own, which a small runtime replays."""
