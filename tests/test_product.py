"""Every option with every other: each cell trains two steps, or three with lazy penalties, or is refused with the line
that REFUSED documents.

`make test` covers every pair of options, `make test-all` the whole product of models, losses, penalties and
augmentations, in which the other groups take turns.
"""

import itertools
import math
import re
from collections.abc import Callable, Iterator, Sequence

import pytest
from conftest import MODELS, largest_difference

from ganduel.config.keys import config_dir
from ganduel.models import efficientnet
from ganduel.system.errors import UserError

Cell = dict[str, str]

NONE = "none"


def options(group: str) -> list[str]:
    """All files of a group: new ones join by themselves."""
    return sorted(path.stem for path in (config_dir() / group).glob("*.yaml"))


# Lighter than usual: plain gradient descent takes large gradients as they are, and diverges.
LIGHT = {name: f"regularizer.{name}.weight=0.5" for name in ("r1", "r2")}
REGULARIZERS = {
    NONE: ("regularizer=[]",),
    "lazy": ("regularizer=[r1,r2]", "regularizer.r1.every=2", "regularizer.r2.every=3", *LIGHT.values()),
}
REGULARIZERS |= {n: (f"regularizer=[{n}]", *([LIGHT[n]] if n in LIGHT else [])) for n in options("regularizer")}
AUGMENTS = {NONE: ("augment=[]",)} | {name: (f"augment=[{name}]",) for name in options("augment")}
AUGMENTS["ada"] = (*AUGMENTS["ada"], "augment.ada.p=0.5")  # it would begin with nothing
TURNS = {name: (f"turns={name}",) for name in options("turns")}
TURNS["gated_by_accuracy"] = ("turns=gated", "turns.loss_floor=null", "turns.accuracy_ceiling=0.95")

GROUPS = {
    "model": list(MODELS),
    "loss": options("loss"),
    "regularizer": list(REGULARIZERS),
    "augment": list(AUGMENTS),
    "optimizer": options("optimizer"),
    "scheduler": options("scheduler"),
    "turns": list(TURNS),
    "precision": ["fp32", "bf16"],
}
WHOLE = ("model", "loss", "regularizer", "augment")

# Pairs of options that cannot work together, and what is said about it.
REFUSED = {
    (("loss", "wasserstein"), ("turns", "gated")): "turns.loss_floor=0.1 is above 0,",
    (("loss", "wasserstein"), ("turns", "gated_by_accuracy")): "turns.accuracy_ceiling=0.95 needs D's accuracy",
    (("loss", "relativistic"), ("turns", "gated_by_accuracy")): "turns.accuracy_ceiling=0.95 needs D's accuracy",
    (("loss", "wasserstein"), ("augment", "ada")): "augment=ada adapts",
    (("loss", "relativistic"), ("augment", "ada")): "augment=ada adapts",
    (("model", "cyclegan"), ("regularizer", "path_length")): "regularizer=path_length needs generators that start",
}


def refusal(cell: Cell) -> str | None:
    """What is said about a cell, whole or in part, that cannot work."""
    return next((message for pair, message in REFUSED.items() if cell.items() >= set(pair)), None)


def pairwise(groups: dict[str, list[str]]) -> list[Cell]:
    """Few cells with every pair of options that work together: greedy, each begun by a pair that is still missing."""
    pairs = [((a, x), (b, y)) for a, b in itertools.combinations(groups, 2) for x in groups[a] for y in groups[b]]
    missing = {pair: None for pair in pairs if not refusal(dict(pair))}  # a set that keeps its order
    cells = []
    while missing:
        cell = dict(next(iter(missing)))
        for group in [g for g in groups if g not in cell]:
            cell[group] = max(
                (option for option in groups[group] if not refusal(cell | {group: option})),
                key=lambda option: sum(pair in missing for pair in pairs_of(cell | {group: option}, groups)),
            )
        for pair in pairs_of(cell, groups):
            missing.pop(pair, None)
        cells.append({group: cell[group] for group in groups})
    return cells


def pairs_of(cell: Cell, groups: dict[str, list[str]]) -> Iterator[tuple]:
    return itertools.combinations([(group, cell[group]) for group in groups if group in cell], 2)


def product() -> list[Cell]:
    """The whole product of WHOLE; the options of the others take turns, those that the cell could not work with
    excepted."""
    cells = []
    for i, chosen in enumerate(itertools.product(*(GROUPS[group] for group in WHOLE))):
        cell = dict(zip(WHOLE, chosen, strict=True))
        for group in [group for group in GROUPS if group not in WHOLE]:
            turns = [GROUPS[group][(i + k) % len(GROUPS[group])] for k in range(len(GROUPS[group]))]
            cell[group] = next((option for option in turns if not refusal(cell | {group: option})), turns[0])
        cells.append(cell)
    return cells


# The command line of an option.
OVERRIDES: dict[str, Callable[[str], Sequence[str]]] = {
    "model": lambda name: [f"model={name}"],
    "loss": lambda name: [f"loss={name}"],
    "regularizer": REGULARIZERS.__getitem__,
    "augment": AUGMENTS.__getitem__,
    "optimizer": lambda name: [f"optimizer={name}"],
    "scheduler": lambda name: [f"scheduler={name}"],
    "turns": TURNS.__getitem__,
    "precision": lambda name: [f"precision={name}"],
}


def arguments(cell: Cell) -> list[str]:
    """All but the model, which comes with its own. Batches are as small as the groups that D compares allow."""
    return ["batch_size=4"] + [
        override for group, of in OVERRIDES.items() if group != "model" for override in of(cell[group])
    ]


def check(cell: Cell, trainer) -> None:
    """A few steps leave everything finite and both players moved; or the one line that is documented."""
    if expected := refusal(cell):
        with pytest.raises(UserError, match=f"^{re.escape(expected)}"):
            trainer(*arguments(cell), model=cell["model"])
        return
    one = trainer(*arguments(cell), model=cell["model"])
    before = {name: {k: v.clone() for k, v in p.networks.state_dict().items()} for name, p in one.players.items()}
    for _ in range(3 if cell["regularizer"] == "lazy" else 2):  # so that each lazy penalty is due again, or not
        one.iterate()
    assert one.not_finite() == []
    for name, player in one.players.items():
        assert largest_difference(before[name], player.networks.state_dict()) > 0, name
    penalties = {"lazy": {"r1", "r2"}, NONE: set(), "weight_clip": set()}
    penalties = penalties.get(cell["regularizer"], {cell["regularizer"]})
    duels = ("_A", "_B") if cell["model"] == "cyclegan" else ("",)
    extras = {f"{what}{duel}" for what in ("cycle", "identity") for duel in duels if duel}
    expected = {f"loss/{name}" for name in {f"{n}{duel}" for n in {"D", "G", *penalties} for duel in duels} | extras}
    assert {n for n in one.stats.means() if n.startswith("loss/")} == expected


def name(cell: Cell) -> str:
    return "-".join(["refused" if refusal(cell) else "trains", *cell.values()])


PAIRS = pairwise(GROUPS)
PRODUCT = product()
CLASHES = [PAIRS[0] | dict(pair) for pair in REFUSED]


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Projected GAN's frozen network with a quarter of the feature maps, and random weights: it takes most of the time.

    tests/test_projected.py has the real one.
    """
    variant = efficientnet.VARIANTS["efficientnet"]._replace(width=0.25, depth=0.3)
    monkeypatch.setitem(efficientnet.VARIANTS, "efficientnet", variant)
    monkeypatch.setattr(efficientnet, "fold", lambda network, state: None)


@pytest.mark.parametrize("cell", PAIRS, ids=name)
def test_every_pair_trains(trainer, cell):
    check(cell, trainer)


@pytest.mark.parametrize("cell", CLASHES, ids=name)
def test_what_cannot_work_is_refused(trainer, cell):
    check(cell, trainer)


@pytest.mark.product
@pytest.mark.parametrize("cell", PRODUCT, ids=name)
def test_every_combination_trains(trainer, cell):
    check(cell, trainer)


def test_cells_are_all_there():
    """Every pair is in a cell that trains or is documented as refused, and every cell of the product is there once."""
    covered = {pair for cell in PAIRS for pair in pairs_of(cell, GROUPS)}
    everything = sum(len(a) * len(b) for a, b in itertools.combinations(GROUPS.values(), 2))
    assert not covered & REFUSED.keys() and len(covered) + len(REFUSED) == everything
    assert not any(map(refusal, PAIRS))
    assert len(PAIRS) < 2 * math.prod(sorted(map(len, GROUPS.values()))[-2:])  # few
    assert len({tuple(cell[group] for group in WHOLE) for cell in PRODUCT}) == len(PRODUCT)
    assert len(PRODUCT) == math.prod(len(GROUPS[group]) for group in WHOLE)


def summary() -> str:
    """What docs/combinations.md says of all these cells."""
    trained = sum(refusal(cell) is None for cell in PRODUCT)
    lines = [
        f"- Every pair of options that can work together is in one of {len(PAIRS)} cells, and all of them train.",
        f"- Of the {len(PRODUCT):,} cells of the product {trained:,} train and {len(PRODUCT) - trained:,} are refused.",
        "",
        "| refused, whatever the other options are | cells of the product | what is said |",
        "|---|---:|---|",
    ]
    for pair, message in REFUSED.items():
        typed = (" ".join(OVERRIDES[group](option)) for group, option in pair)
        options = " with ".join(f"`{re.sub(r'[][]', '', line)}`" for line in typed)  # lists need no brackets
        cells = sum(cell.items() >= set(pair) for cell in PRODUCT)
        lines.append(f"| {options} | {cells} | `error: {message} ...` |")
    return "\n".join(lines)


def test_the_documentation_lists_what_is_refused():
    text = (config_dir().parent / "docs" / "combinations.md").read_text()
    assert summary() in text, f"docs/combinations.md is to say:\n{summary()}"
