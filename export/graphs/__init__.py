"""ONNX graphs: traced, read, written, and their class attention rewritten."""
