"""Checks of a data set before training: missing, broken and duplicate images."""

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from ganduel.data.formats import NO_IMAGE, described
from ganduel.data.store import Store
from ganduel.system.terminal import printable

# Difference hashes of near duplicates differ in at most NEAR of 256 bits. Every image is compared with its next
# NEIGHBOURS images in a sorted order.
NEAR, NEIGHBOURS = 10, 4
SMALL = 64  # pixels a side: many smaller images have similar hashes although they differ
MOST = 10_000_000  # most images to search for near duplicates: more would not fit in a gigabyte
SHOWN = 20  # most lines shown of a list


def statistics(sums: list[list[int]], pixels: int) -> dict[str, list[float]]:
    """Mean and standard deviation of each channel, from 0 to 255.

    `sums` holds the sums of the pixels and of their squares, one number a channel; `pixels` is the number of pixels.
    """
    mean, square = np.array(sums, float) / pixels
    return {"mean": mean.round(2).tolist(), "std": np.sqrt((square - mean**2).clip(0)).round(2).tolist()}


def identity(digests: np.ndarray) -> dict[str, Any]:
    """A SHA-256 that identifies the images, and the number of exact copies. `digests` is (N, 2), uint64."""
    return {
        "content": hashlib.sha256(digests.tobytes()).hexdigest(),
        "duplicates": len(digests) - len(np.unique(digests, axis=0)),
    }


def intact(store: Store, content: str) -> bool:
    """Whether a packed set is unchanged; `content` is the SHA-256 that `identity` gave at packing time."""
    digest = hashlib.sha256()
    for stored in store.stored():
        digest.update(hashlib.blake2b(stored, digest_size=16).digest())
    return digest.hexdigest() == content


def near_duplicates(looks: np.ndarray, names: Sequence[str], resolution: int) -> dict[str, Any]:
    """The number of images that look like an earlier image (exact copies included), and the first `SHOWN` pairs.

    `looks` are difference hashes (N, 4), uint64. Two hashes that differ in at most `NEAR` of 256 bits almost always
    agree in one of eleven stretches of 24 bits. In an order sorted by the bits from the start of that stretch, they are
    neighbours. The count is None for images below `SMALL` pixels a side and for more than `MOST` images.
    """
    if len(looks) > MOST or resolution < SMALL:
        return {"near_duplicates": None, "near_pairs": []}
    cells = np.ascontiguousarray(looks).view(np.uint8).reshape(len(looks), 32)
    words = cells.view(np.uint16)
    found: dict[int, int] = {}
    for start in range(0, 32, 3):
        key = np.ascontiguousarray(np.roll(cells, -start, axis=1)[:, :8]).view(">u8").ravel()
        order = np.argsort(key, kind="stable")
        for step in range(1, NEIGHBOURS + 1):
            a, b = order[:-step], order[step:]
            differing = np.zeros(len(a), np.uint16)
            for word in range(16):
                differing += ONES[words[a, word] ^ words[b, word]]
            for one, other in zip(*(side[differing <= NEAR].tolist() for side in (a, b)), strict=True):
                found.setdefault(max(one, other), min(one, other))
    pairs = [[names[found[later]], names[later]] for later in sorted(found)[:SHOWN]]
    return {"near_duplicates": len(found), "near_pairs": pairs}


ONES = np.unpackbits(np.arange(2**16, dtype=np.uint16)[:, None].view(np.uint8), axis=1).sum(1).astype(np.uint16)


def report(about: dict[str, Any]) -> str:
    """The content of a packed set's JSON as text for people."""
    if "plane" in about:
        return _of_points(about)
    recipe = about["recipe"]
    shape = f"{recipe['resolution']}x{recipe['resolution']}x{recipe['channels']}"
    crop = f"the centre {recipe['crop']}" if recipe["crop"] else "the largest centre square"
    crop += f" of {recipe['width']} pixels" if recipe["crop"] and recipe["width"] else ""
    crop = "none" if recipe["resize"] == "stretch" else crop
    stored = ("compressed" if about["compressed"] else "pixels") + (" in shards" if about["shards"] else "")
    lines = [
        f"{about['name']}: {about['images']:,} images of {shape}"
        + (f", {len(about['labels'])} labels" if about["labels"] else ""),
        "  found " + ", ".join(_found(name, n, about["expected"]) for name, n in about["found"].items()),
        f"  crop {crop}, resize {recipe['resize']}; stored as {stored}, {about['bytes'] / 1e6:,.1f} MB",
        "  modes " + ", ".join(f"{mode} {n:,}" for mode, n in about["modes"].items()),
        "  sizes " + ", ".join(f"{size} {n:,}" for size, n in about["sizes"].items()),
        f"  mean {about['mean']}, std {about['std']} of 0 to 255",
        f"  {about['duplicates']:,} copies of others"
        + ("" if (near := about["near_duplicates"]) is None else f", {near:,} near duplicates"),
    ]
    lines += [f"    {printable(one)} and {printable(other)}" for one, other in about["near_pairs"][:3]]
    if note := about.get("note"):
        lines.append(f"  warning: {printable(note)}")
    if origin := about.get("labels_from"):
        lines.append(f"  labels: {printable(origin)} (data.labels={recipe.get('labels', 'auto')})")
    if left_out := about.get("left_out", {}):
        mark = "left out" if left_out.keys() == {NO_IMAGE} else "warning: left out"
        lines.append(f"  {mark} {'; '.join(described(left_out))}")
    else:
        lines.append("  left out nothing")
    if dark := sum(n for mode, n in about["modes"].items() if mode.endswith(" bits")):
        lines.append(
            f"  warning: {dark:,} images of 16 bits use few of them (see modes), so they are packed dark; "
            "scale their pixels to 0 to 65535"
        )
    for name, expected in about["expected"].items():
        if (missing := expected - about["found"].get(name, 0)) > 0:
            lines.append(f"  warning: {missing:,} of {expected:,} {name} images are missing")
    if rejected := about["rejected"]:
        lines.append(f"  warning: {len(rejected):,} rejected")
        lines += [f"    {printable(name)}: {printable(reason)}" for name, reason in list(rejected.items())[:SHOWN]]
        if len(rejected) > SHOWN:
            lines.append(f"    and {len(rejected) - SHOWN:,} more: all are in the JSON")
    return "\n".join(lines)


def _of_points(about: dict[str, Any]) -> str:
    """`report` for a set of points."""
    plane = about["plane"]
    return (
        f"{about['name']}: {about['images']:,} points of {len(plane['centres'])} Gaussians with standard deviation "
        f"{plane['std']:g}\n  found {', '.join(_found(name, n, {}) for name, n in about['found'].items())}\n"
        f"  mean {about['mean']}, std {about['std']} of x and y\n  labels: {about['labels_from']}"
    )


def _found(name: str, count: int, expected: dict[str, int]) -> str:
    return f"{name} {count:,}" + (f" of {expected[name]:,}" if name in expected else "")
