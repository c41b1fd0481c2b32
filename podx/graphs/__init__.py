"""ONNX Runtime sessions and what runs in them."""
