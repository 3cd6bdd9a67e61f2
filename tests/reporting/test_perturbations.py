"""Perturbations of poisons on disk: the right rows, numbers that can be worked out by hand, pictures that repeat."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from torch import Tensor

from engine.artifacts import write_poison
from engine.artifacts.files import ArtifactError, read_json, write_json
from engine.artifacts.poison import read_manifest
from engine.protocols import ImageSet, Poison
from engine.reporting.inks import PALETTE, REFERENCE_COLOUR, inks
from engine.reporting.perturbations import (
    BLACK,
    CLASSES,
    OTHER_CLASSES,
    OTHERS,
    class_colours,
    draw_embeddings,
    draw_spectra,
    perturbations_of,
)
from engine.reporting.readings import MeasuredPerturbation, parse
from engine.reporting.results import PoisonFacts, Results
from engine.reporting.visibility import visibility_board
from engine.stages import perturbations
from engine.stages.perturbations import NOTHING, choose, measure_perturbation
from engine.study import StudySpec, perturbation_path, poison_path
from tests.making import about

CLASS_NAMES = ("cat", "dog", "eel", "fox")
N, SIDE, K = 80, 8, 4
Write = Callable[..., PoisonFacts]


def draw(*shape: int, seed: int) -> Tensor:
    return torch.randint(0, 2, shape, generator=torch.Generator().manual_seed(seed), dtype=torch.int8)


@pytest.fixture
def clean() -> ImageSet:
    """Images of one class after the other, far enough from black and white for any noise of 8 levels."""
    drawn = torch.randint(20, 230, (N, 3, SIDE, SIDE), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return ImageSet(drawn, torch.arange(N) // (N // K), CLASS_NAMES)


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clean: ImageSet) -> Write:
    """Return a function that writes a poison and says what is known of it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("engine.artifacts.encoding.ROWS", 7)

    def written(name: str, levels: Tensor, granularity: str = "sample", *, kind: str = "noise") -> PoisonFacts:
        whole = levels[clean.labels] if granularity == "class" else levels
        released = ImageSet((clean.images_u8.short() + whole).to(torch.uint8), clean.labels, clean.class_names)
        perturbed = (whole != 0).flatten(1).any(dim=1) if kind != "clean" else torch.ones(N, dtype=torch.bool)
        poison = Poison(levels, granularity, unit=1 / 255)
        write_poison(
            poison_path("pets", name), clean=clean, released=released, poison=poison, perturbed=perturbed, about=about()
        )
        measured = measure_perturbation(clean, released.images_u8, poison, perturbed)
        write_json(perturbation_path("pets", name), measured)
        return PoisonFacts(name, kind, "zero", {"kind": kind}, read_manifest(poison_path("pets", name)))

    return written


def results_of(*poisons: PoisonFacts) -> Results:
    study = StudySpec(
        protocol="banked",
        name="small",
        dataset="pets",
        poisons={facts.name: {"attack": facts.attack, "init": "zero"} for facts in poisons},
        victims=("simclr",),
        defenses=("none",),
        downstream=("pets",),
        seeds=(0,),
    )
    measured = {facts.name: parse(perturbation_path("pets", facts.name), MeasuredPerturbation) for facts in poisons}
    return Results(study, {facts.name: facts for facts in poisons}, perturbations=measured)


def signs(*shape: int, seed: int = 1) -> Tensor:
    return 8 * (2 * draw(*shape, 3, SIDE, SIDE, seed=seed) - 1)


def clean_poison(write: Write) -> PoisonFacts:
    return write("clean", torch.zeros(N, 3, SIDE, SIDE, dtype=torch.int8), kind="clean")


def test_noise_of_the_whole_budget_has_the_numbers_of_the_budget(write: Write) -> None:
    results = results_of(clean_poison(write), write("byclass", signs(K), "class"))
    found = perturbations_of(results)
    assert found is not None
    (record,) = found.records
    ssim = record.pop("ssim")
    assert 0.5 < ssim < 1
    assert record == {
        "poison": "byclass",
        "images": N,
        "psnr": pytest.approx(20 * math.log10(255 / 8), abs=1e-3),
        "linf_levels": 8,
        "l2": pytest.approx(8 / 255 * math.sqrt(3 * SIDE * SIDE), abs=1e-4),
        "separability": 1.0,
        "judged": N // 2,
        "chance": 0.25,
    }


def test_independent_noise_is_near_chance_and_its_spectrum_flat(write: Write) -> None:
    results = results_of(clean_poison(write), write("each", signs(N)))
    found = perturbations_of(results)
    assert found is not None
    assert found.records[0]["separability"] < 0.25 + 3 * math.sqrt(0.25 * 0.75 / (N / 2))
    assert found.shown[0].spectrum.tolist() == pytest.approx([64] * len(found.shown[0].spectrum), rel=0.25)
    assert found.clean_spectrum[0] > 100 * found.shown[0].spectrum[0]


def test_what_was_measured_is_read_back_strictly(write: Write) -> None:
    write("each", signs(N))
    file = perturbation_path("pets", "each")
    content = read_json(file)
    assert parse(file, MeasuredPerturbation).labels == content["labels"]
    assert len(content["labels"]) == len(content["points"]) == N
    for wrong in ({"labels": content["labels"][1:]}, {"points": [[1.0]]}, {"psnr": "30"}, {"spectrum": None}, {"x": 1}):
        write_json(file, {**content, **wrong})
        with pytest.raises(ArtifactError, match="holds no measured perturbation"):
            parse(file, MeasuredPerturbation)


def test_a_poison_that_perturbs_nothing_says_so(write: Write) -> None:
    clean_poison(write)
    assert read_json(perturbation_path("pets", "clean")) == NOTHING
    assert parse(perturbation_path("pets", "clean"), MeasuredPerturbation).images == 0


def test_measuring_twice_gives_the_same_bytes(write: Write) -> None:
    write("each", signs(N))
    first = perturbation_path("pets", "each").read_bytes()
    write("each", signs(N))
    assert perturbation_path("pets", "each").read_bytes() == first


def test_there_is_nothing_to_see_without_perturbed_images(write: Write) -> None:
    gone = replace(write("gone", signs(N)), manifest=None)
    idle = write("idle", torch.zeros(N, 3, SIDE, SIDE, dtype=torch.int8))
    assert perturbations_of(results_of(clean_poison(write), gone, idle)) is None


def test_chosen_images_are_perturbed_evenly_of_all_classes_and_the_same_for_every_poison(
    clean: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(perturbations, "MOST", 22)
    perturbed = torch.arange(N) % 2 == 1
    places = choose(clean.labels, perturbed)
    assert len(places.unique()) == 22
    assert perturbed[places].all()
    labels = clean.labels[places]
    assert sorted(labels.bincount().tolist()) == [5, 5, 6, 6]
    assert sorted(labels[:8].tolist()) == [0, 0, 1, 1, 2, 2, 3, 3]
    assert torch.equal(choose(clean.labels, perturbed), places)


def test_noise_clean_and_released_images_are_of_the_same_places(clean: ImageSet) -> None:
    """Image i has noise of one value of its own; half of the images are neither perturbed nor looked at."""
    values, perturbed = torch.arange(N, dtype=torch.int8) % 8 + 1, torch.arange(N) % 2 == 0
    levels = values[:, None, None, None].expand(N, 3, SIDE, SIDE).clone() * perturbed[:, None, None, None]
    released = (clean.images_u8.short() + levels).to(torch.uint8)
    measured = measure_perturbation(clean, released, Poison(levels.to(torch.int8), "sample"), perturbed)
    chosen = values[perturbed].double()
    assert measured["images"] == N / 2
    assert measured["labels"] == clean.labels[choose(clean.labels, perturbed)].tolist()
    assert measured["l2"] == pytest.approx((chosen.mean() / 255 * math.sqrt(3 * SIDE * SIDE)).item(), abs=1e-4)
    assert measured["psnr"] == pytest.approx((20 * torch.log10(255 / chosen)).mean().item(), abs=1e-3)
    assert measured["spectrum"][0] == pytest.approx((chosen.square().mean() * SIDE * SIDE).item(), rel=1e-5)


def test_points_are_coloured_by_class_and_titled_with_the_separability(write: Write) -> None:
    found = perturbations_of(results_of(write("byclass", signs(K), "class"), write("each", signs(N))))
    assert found is not None
    sheet = draw_embeddings(found)
    assert sheet is not None
    assert sheet.panels[0].title == "byclass: linear accuracy 1.00 (chance 0.25)"
    assert sheet.panels[1].title.startswith("each: linear accuracy 0.")
    axes = Figure().add_subplot()
    legend = sheet.panels[0].draw(axes)
    assert [line.get_label() for line in legend] == list(CLASS_NAMES)
    (points,) = axes.collections
    colours = [to_hex(colour).upper() for colour in points.get_facecolors()]
    assert colours == [CLASSES[label] for label in found.shown[0].labels]
    assert points.get_offsets().shape == (N, 2)


def test_too_few_images_have_no_points(write: Write) -> None:
    few = torch.zeros(N, 3, SIDE, SIDE, dtype=torch.int8)
    few[:3] = signs(3)
    found = perturbations_of(results_of(write("few", few)))
    assert found is not None
    assert (found.records[0]["images"], found.records[0]["separability"]) == (3, None)
    assert draw_embeddings(found) is None


def test_more_classes_than_colours_are_nine_and_the_others() -> None:
    names = [f"class {index}" for index in range(12)]
    assert class_colours(names) == (*zip(names[:9], CLASSES, strict=True), (OTHER_CLASSES, OTHERS))
    assert class_colours(names[:10])[9] == ("class 9", BLACK)
    assert len({colour for _, colour in class_colours(names[:10])}) == 10
    assert not {*CLASSES, BLACK, OTHERS} & {*PALETTE, REFERENCE_COLOUR}


def test_a_legend_names_the_classes_as_far_as_there_is_room(write: Write) -> None:
    found = perturbations_of(results_of(write("each", signs(N))))
    assert found is not None

    def legend(*names: str) -> list[str]:
        sheet = draw_embeddings(replace(found, class_colours=class_colours(names)))
        assert sheet is not None
        return [str(line.get_label()) for line in sheet.panels[0].draw(Figure().add_subplot())]

    assert legend("cat", "dog", "eel", "a" * 50) == ["cat", "dog", "eel", "a" * 50]
    assert legend("cat", "dog", "eel", "a" * 52) == ["cat", "dog", "eel", "a" * 14 + "\N{HORIZONTAL ELLIPSIS}"]
    assert legend(*(f"class {index}" for index in range(11))) == [OTHER_CLASSES]


def test_spectra_have_the_colours_of_their_poisons_beside_clean_images(write: Write) -> None:
    results = results_of(clean_poison(write), write("byclass", signs(K), "class"), write("each", signs(N)))
    found = perturbations_of(results)
    assert found is not None
    (panel,) = draw_spectra(results, found).panels
    axes = Figure().add_subplot()
    lines = panel.draw(axes)
    assert [line.get_label() for line in lines] == ["clean images", "byclass", "each"]
    ink = inks(results)
    assert [(line.get_color(), line.get_linestyle()) for line in axes.lines] == [
        (REFERENCE_COLOUR, "-"),
        *((ink[name].colour, dashes) for name, dashes in (("byclass", "-"), ("each", "--"))),
    ]
    assert ink["byclass"].colour == ink["each"].colour  # attacks of one kind
    assert axes.lines[2].get_xdata().tolist() == [1, 2, 3, 4, 5, 6]
    assert axes.lines[2].get_ydata().tolist() == found.shown[1].spectrum[1:].tolist()


def test_what_is_measured_is_a_table_too(write: Write) -> None:
    found = perturbations_of(results_of(clean_poison(write), write("byclass", signs(K), "class")))
    alone = perturbations_of(results_of(write("flat", torch.full((N, 3, SIDE, SIDE), 8, dtype=torch.int8))))
    assert found is not None
    assert alone is not None
    board = visibility_board([*found.records, *alone.records])
    # Every pixel value is 8 of 255 levels away: 20 log10(255 / 8) decibels, and 8 / 255 times the root of 192 values.
    ssim = f"{found.records[0]['ssim']:.3f}"
    assert board.lines[0] == ("byclass", "80", "30.1", ssim, "8", "0.43", "1.00", "0.25")
    assert board.lines[1][:2] == ("flat", "80")
    assert board.lines[1][4] == "8"
    assert board.records == [*found.records, *alone.records]
    assert len(board.headings) == 8


def test_noise_of_a_single_frequency_is_drawn(write: Write) -> None:
    results = results_of(write("flat", torch.full((N, 3, SIDE, SIDE), 8, dtype=torch.int8)))
    found = perturbations_of(results)
    assert found is not None
    assert found.shown[0].spectrum[0] == pytest.approx(64 * SIDE * SIDE)
    assert found.shown[0].points is None
    draw_spectra(results, found)


def test_the_same_poisons_give_the_same_bytes(write: Write) -> None:
    results = results_of(clean_poison(write), write("each", signs(N)))
    made = []
    for _ in range(2):
        found = perturbations_of(results)
        assert found is not None
        sheet = draw_embeddings(found)
        assert sheet is not None
        made.append((found.records, sheet.png(), draw_spectra(results, found).png()))
    assert made[0] == made[1]
