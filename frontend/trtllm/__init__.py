"""The checkpoint format that TensorRT-LLM defined: config.json and a file of tensors for each rank."""

from trtc.frontend.trtllm.document import document
from trtc.frontend.trtllm.layout import Layout, Mapping
from trtc.frontend.trtllm.ranks import rank_tensors
from trtc.frontend.trtllm.reader import FORMAT

__all__ = ["FORMAT", "Layout", "Mapping", "document", "rank_tensors"]
