"""From files and the command line to checked settings."""
