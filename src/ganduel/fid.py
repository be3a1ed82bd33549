"""gan-fid, as torchrun starts it: `torchrun -m ganduel.fid ...`."""

from ganduel.commands import start

if __name__ == "__main__":
    start.fid()
