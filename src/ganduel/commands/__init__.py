"""One module for each command. `cli` reads the command line."""
