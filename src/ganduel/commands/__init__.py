"""One module a command; `cli` reads the command line."""
