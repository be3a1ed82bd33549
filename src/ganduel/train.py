"""gan-train, as torchrun starts it: `torchrun -m ganduel.train ...`."""

from ganduel.commands import start

if __name__ == "__main__":
    start.train()
