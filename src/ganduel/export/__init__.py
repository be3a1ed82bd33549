"""Trained generators in formats for other programs: safetensors, ONNX, and a model card."""
