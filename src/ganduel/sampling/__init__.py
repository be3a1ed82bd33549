"""What gan-sample draws from a trained network."""
