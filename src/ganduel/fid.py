"""gan-fid, as torchrun starts it: `torchrun -m ganduel.fid ...`."""

from ganduel.commands import cli

if __name__ == "__main__":
    cli.fid()
