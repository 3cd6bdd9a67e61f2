"""Match a released poison with the clean images, and refuse it where anything does not fit; nothing is guessed.

Shapes: N clean images, n released ones or rows of noise.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from engine.importing.found import Found, ImportFault
from engine.perturbation import chunks, max_level, quantize_levels
from engine.protocols import ImageSet, Poison

Match = Literal["index", "nearest"]
SHOWN = 5
SAMPLE = 64
"""Images beyond the budget that are looked for elsewhere in the clean data set."""
ALIKE = 0.9
"""Correlation of pixels above which two images are one, up to a poison; that of noise and an image is near nothing."""
ROOM = 1e-3
"""By how much of the budget noise may miss it by rounding."""


def poison_of(
    found: Found, clean: ImageSet, *, epsilon: float, match: Match = "index", partial: bool = False
) -> Poison:
    """Return a released poison of the clean images, in grey levels.

    ``match`` says which clean image each released one was made of: that at its place, or the nearest one. ``partial``
    allows images to be missing: they count as withheld.

    Raises:
        ImportFault: counts, shape, range, order, labels or budget do not fit; the message says which, and what would.
    """
    if found.what == "noise":
        return _noise(found, clean, epsilon)
    if len(found.values) != len(clean) and not partial:
        raise ImportFault(
            f"{found.file} holds {len(found.values):,} images, the clean data set {len(clean):,}; where the others are "
            "not released, say so with --partial"
        )
    places = _nearest_places(found, clean, epsilon) if match == "nearest" else _places(found, clean)
    levels = found.values.short() - clean.images_u8[places].short()
    beyond = (levels.abs().flatten(1).amax(dim=1) > max_level(epsilon)).nonzero().squeeze(1)
    if len(beyond):
        raise ImportFault(_beyond(found, clean, levels, beyond, epsilon, match))
    _check_labels(found, clean, places)
    noise = torch.zeros(clean.images_u8.shape, dtype=torch.int8)
    noise[places] = levels.to(torch.int8)
    withheld = torch.ones(len(clean), dtype=torch.bool)
    withheld[places] = False
    return Poison(noise, "sample", unit=1 / 255, withheld=withheld if withheld.any() else None)


def _noise(found: Found, clean: ImageSet, epsilon: float) -> Poison:
    noise, file = found.values, found.file
    if not noise.isfinite().all():
        raise ImportFault(f"{file} holds numbers that are not finite")
    if len(noise) not in (len(clean), len(clean.class_names)):
        raise ImportFault(
            f"{file} has {len(noise):,} rows; expected {len(clean):,}, one an image, "
            f"or {len(clean.class_names)}, one a class"
        )
    unit = epsilon if found.unit == "budget" else 1.0
    largest = float(noise.abs().max()) * unit
    is_beyond = largest > epsilon * (1 + ROOM)
    if (is_beyond or found.unit == "budget") and _are_images(noise, clean):
        raise ImportFault(f"{file} holds images in floats, not noise; save them as eight-bit integers, 0 to 255")
    if is_beyond:
        raise ImportFault(
            f"{file} has noise of up to {255 * largest:.4g} grey levels, beyond the budget of {255 * epsilon:.4g}: "
            f"{_other_unit(found, largest)}"
        )
    if largest < 0.5 / 255:
        raise ImportFault(
            f"{file} has noise of at most {255 * largest:.2g} grey levels, which changes no eight-bit image; "
            "noise in pixel units is read with --layout tensor, noise in units of the budget with --layout official"
        )
    if found.unit == "budget" and 0 < largest <= epsilon**2 * (1 + ROOM):
        raise ImportFault(
            f"{file} has noise of up to {largest / epsilon:.4g}, a small part of the budget if that is its unit, and "
            "within the budget in pixel units: it is read in pixel units with --layout tensor"
        )
    levels = torch.empty(noise.shape, dtype=torch.int8)
    for rows in chunks(len(noise)):
        levels[rows] = quantize_levels(noise[rows].float() * unit, epsilon=epsilon)
    granularity: Literal["sample", "class"] = "sample" if len(noise) == len(clean) else "class"
    order = torch.arange(len(noise))
    if found.places is not None and not torch.equal(found.places, order):
        raise ImportFault(f"{file} holds noise in another order than the data set; put it into that order")
    if granularity == "sample":
        _check_labels(found, clean, order)
    return Poison(levels, granularity, unit=1 / 255)


def _other_unit(found: Found, largest: float) -> str:
    if found.unit == "budget":
        return "in units of the budget noise stays within -1 and 1; this is in another unit"
    if 0.99 < largest <= 1.0:
        return "it is in units of the budget (--layout official), or the budget is another (--epsilon)"
    return "the budget is another (--epsilon), or this is in grey levels and wants dividing by 255"


def _are_images(values: Tensor, clean: ImageSet) -> bool:
    """Return whether values resemble clean images, in whatever order, in one of the usual ranges of floats."""
    rows = values[torch.linspace(0, len(values) - 1, min(SAMPLE, len(values))).long()].float()
    guesses = torch.cat((rows * 255, (rows + 1) * 127.5, rows))
    nearest = clean.images_u8[_nearest(guesses, clean)[:, 0]]
    one, other = (part.flatten(1) - part.flatten(1).mean(dim=1, keepdim=True) for part in (guesses, nearest.float()))
    alike = torch.cosine_similarity(one, other).view(3, -1) > ALIKE
    return bool((alike.float().mean(dim=1) > 0.5).any())


def _places(found: Found, clean: ImageSet) -> Tensor:
    """Return where each released image stands in the clean data set, by what the release says."""
    if found.places is None:
        if len(found.values) != len(clean):
            raise ImportFault(
                f"{found.file} holds {len(found.values):,} images, the clean data set {len(clean):,}, and nothing says "
                "which are missing; match them by --match nearest"
            )
        return torch.arange(len(clean))
    places = found.places
    if len(places) != len(found.values):
        raise ImportFault(f"{found.file} names {len(places):,} places for {len(found.values):,} images")
    if places.min() < 0 or places.max() >= len(clean):
        raise ImportFault(
            f"{found.file} names places {int(places.min())} to {int(places.max())}; "
            f"the clean data set has the places 0 to {len(clean) - 1}"
        )
    if len(places.unique()) < len(places):
        raise ImportFault(f"{found.file} names a place of the clean data set twice")
    return places


def _nearest(images: Tensor, clean: ImageSet, count: int = 1) -> Tensor:
    """Return the places of the clean images at the smallest Euclidean distances from each image: int64 [n, count].

    Units: grey levels, also in floats.
    """
    flat = clean.images_u8.flatten(1).float() / 255
    lengths = flat.square().sum(dim=1)
    found = []
    for part in images.split(512):
        pixels = part.flatten(1).float() / 255
        # The image's own length is the same for all clean ones.
        found.append((lengths - 2 * pixels @ flat.T).topk(count, largest=False).indices)
    return torch.cat(found)


def _nearest_places(found: Found, clean: ImageSet, epsilon: float) -> Tensor:
    both = _nearest(found.values, clean, min(2, len(clean)))
    places = both[:, 0]
    counts = places.bincount(minlength=len(clean))
    if (counts > 1).any():
        place = int(counts.argmax())
        rows = (places == place).nonzero().squeeze(1)[:SHOWN].tolist()
        raise ImportFault(
            f"{found.file}: {int((counts > 1).sum()):,} clean images are the nearest to several released ones, for "
            f"example {place} to {rows}: there are duplicates, or these are no images of this data set; "
            "match them by --match index"
        )
    away = (found.values.short() - clean.images_u8[both[:, -1]].short()).abs().flatten(1).amax(dim=1)
    unclear = ((away <= max_level(epsilon)) & (both[:, -1] != places)).nonzero().squeeze(1)
    if len(unclear):
        row = int(unclear[0])
        raise ImportFault(
            f"{found.file}: {len(unclear):,} images may be of several clean ones, for example row {row} of "
            f"{both[row].tolist()}: the budget reaches from both; match them by --match index"
        )
    return places


def _beyond(found: Found, clean: ImageSet, levels: Tensor, beyond: Tensor, epsilon: float, match: Match) -> str:
    """Say how many images miss the budget, and why that may be."""
    worst = int(levels.abs().max())
    said = (
        f"{len(beyond):,} of {len(levels):,} images of {found.file} differ from the clean ones by more than "
        f"{max_level(epsilon)} grey levels, the worst by {worst} (rows {', '.join(map(str, beyond[:SHOWN].tolist()))}"
        f"{', ...' if len(beyond) > SHOWN else ''})"
    )
    if match == "index":
        rows = beyond[torch.linspace(0, len(beyond) - 1, min(SAMPLE, len(beyond))).long()]
        places = _nearest(found.values[rows], clean)[:, 0]
        elsewhere = (found.values[rows].short() - clean.images_u8[places].short()).abs().flatten(1).amax(dim=1)
        if (elsewhere <= max_level(epsilon)).float().mean() > 0.9:
            return f"{said}: they are in another order than the clean data set; match them by --match nearest"
        swapped = (found.values[rows].flip(1).short() - clean.images_u8[_expected(found, rows)].short()).abs()
        if swapped.max() <= max_level(epsilon):
            return f"{said}: their colours are in the order blue, green, red; exchange the channels"
    if worst <= max_level(epsilon) + 1:
        return f"{said}: the official code's truncation misses the budget by one level; give --epsilon one level more"
    return f"{said}; the budget is another (--epsilon), or they are no images of this data set"


def _expected(found: Found, rows: Tensor) -> Tensor:
    return rows if found.places is None else found.places[rows]


def _check_labels(found: Found, clean: ImageSet, places: Tensor) -> None:
    if found.labels is None:
        return
    if len(found.labels) != len(places):
        raise ImportFault(f"{found.file} has {len(found.labels):,} labels for {len(places):,} images")
    labels, expected = found.labels, clean.labels[places]
    if labels.min() < 0 or labels.max() >= len(found.class_names or clean.class_names):
        raise ImportFault(
            f"{found.file} has labels from {int(labels.min())} to {int(labels.max())}: there are fewer classes"
        )
    # The names of the classes say what a number means.
    if found.class_names and set(found.class_names) <= set(clean.class_names):
        labels = torch.tensor([clean.class_names.index(name) for name in found.class_names])[labels]
    elif found.class_names and all(name.isdecimal() and len(name) < 10 for name in found.class_names):
        labels = torch.tensor([int(name) for name in found.class_names])[labels]
    wrong = labels != expected
    if not wrong.any():
        return
    said = f"{int(wrong.sum()):,} of {len(labels):,} labels of {found.file} are not those of the clean data set"
    if renamed := _renaming(labels, expected):
        raise ImportFault(f"{said}: its classes are numbered otherwise ({renamed}); renumber them, or leave labels out")
    shown = wrong.nonzero().squeeze(1)[:SHOWN].tolist()
    raise ImportFault(f"{said} (rows {', '.join(map(str, shown))}): images or labels are in another order")


def _renaming(labels: Tensor, expected: Tensor) -> str:
    """Return which number stands for which where that explains all labels, else nothing."""
    pairs = torch.stack((labels, expected), dim=1).unique(dim=0)
    if len(pairs) == len(pairs[:, 0].unique()) == len(pairs[:, 1].unique()):
        moved = [f"{given} is {meant}" for given, meant in pairs.tolist() if given != meant]
        return ", ".join(moved[:SHOWN]) + (", ..." if len(moved) > SHOWN else "")
    return ""
