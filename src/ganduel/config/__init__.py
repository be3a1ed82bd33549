"""From files and the command line to checked settings, and from settings to objects."""
