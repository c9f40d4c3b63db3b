"""Models as graphs for other programs: ONNX and ``torch.export``."""
