"""Faster phases with the same results, and a forecast of a run's time and memory."""
