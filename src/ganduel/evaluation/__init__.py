"""How good the images are."""
