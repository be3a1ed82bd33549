"""The folder of a run: its logs, pictures and checkpoints; and the checks of its health."""
