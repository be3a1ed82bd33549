"""The machine: devices, processes, files, the terminal, errors."""
