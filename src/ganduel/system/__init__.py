"""The machine: devices, processes, files, the terminal and errors."""
