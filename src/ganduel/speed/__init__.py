"""What makes phases faster and leaves them what they are, and what a run is going to take."""
