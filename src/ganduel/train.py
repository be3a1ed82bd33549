"""gan-train, as torchrun starts it: `torchrun -m ganduel.train ...`."""

from ganduel.commands import cli

if __name__ == "__main__":
    cli.train()
