"""onnxlip: certified Lipschitz bounds of ONNX networks."""
