"""Launch plans: kernels and products that the host tells a GPU one by one, or all at once as a CUDA graph."""
