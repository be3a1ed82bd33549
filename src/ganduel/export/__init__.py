"""Trained generators for others: weights, ONNX, and a card that says what they are."""
