"""ONNX models as a source: the file, its nodes as ops, and the model's own interface as trtc's."""
