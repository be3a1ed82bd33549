"""Compose settings from files and the command line, and check them."""
