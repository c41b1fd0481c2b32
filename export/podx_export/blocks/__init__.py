"""Parts of a T5 as ONNX nodes."""
