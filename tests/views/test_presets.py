"""Published recipes of views, and what a spec of views refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from engine.randomness import stream
from engine.specfiles import SpecFault, load, names
from engine.victimspec import PRESETS, ViewsSpec, presets
from engine.views import Views

NAMES = ["byol_imagenet_a", "byol_imagenet_b", "cifar", "mocov2_imagenet", "none", "simclr_imagenet", "weak"]


def test_every_file_is_a_preset() -> None:
    assert sorted(presets()) == sorted(file.stem for file in PRESETS.iterdir()) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_every_preset_is_accepted_and_makes_views(name: str) -> None:
    spec = ViewsSpec(preset=name)
    for key, value in presets()[name].items():
        assert getattr(spec, key) == (128 / 255 if value == "128/255" else value)
    images = torch.rand(2, 3, 24, 24, generator=stream(0, "images"))
    view = Views(**spec.arguments())(stream(0, "views"), images)
    assert view.shape == (2, 3, spec.size, spec.size)


# From the papers' tables and the official code, not from the files.
PUBLISHED = {
    "simclr_imagenet": {
        "crop_scale": (0.08, 1.0),
        "jitter": (0.8, 0.8, 0.8, 0.2),
        "jitter_probability": 0.8,
        "grayscale": 0.2,
        "blur_probability": 0.5,
        "blur_sigma": (0.1, 2.0),
        "solarize_probability": 0.0,
    },
    "mocov2_imagenet": {
        "crop_scale": (0.2, 1.0),
        "jitter": (0.4, 0.4, 0.4, 0.1),
        "jitter_probability": 0.8,
        "grayscale": 0.2,
        "blur_probability": 0.5,
        "blur_sigma": (0.1, 2.0),
    },
    "byol_imagenet_a": {"jitter": (0.4, 0.4, 0.2, 0.1), "blur_probability": 1.0, "solarize_probability": 0.0},
    "byol_imagenet_b": {"jitter": (0.4, 0.4, 0.2, 0.1), "blur_probability": 0.1, "solarize_probability": 0.2},
    "cifar": {"crop_scale": (0.2, 1.0), "jitter": (0.4, 0.4, 0.4, 0.1), "jitter_probability": 0.8, "grayscale": 0.2},
    "weak": {"crop_scale": None, "padding": 4, "flip": 0.5, "jitter_probability": 0.0, "grayscale": 0.0},
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_presets_have_their_published_values(name: str) -> None:
    spec = ViewsSpec(preset=name)
    assert {key: getattr(spec, key) for key in PUBLISHED[name]} == PUBLISHED[name]
    assert spec.crop_ratio == (3 / 4, 4 / 3)
    assert spec.flip == 0.5
    assert not spec.eight_bit
    if name.endswith(("imagenet", "imagenet_a", "imagenet_b")):
        assert spec.size == 224
        assert spec.blur_kernel == 23  # a tenth of 224, made odd


def test_a_key_beside_a_preset_wins() -> None:
    spec = ViewsSpec(preset="byol_imagenet_b", size=96, blur_probability=0.3)
    assert (spec.size, spec.blur_probability, spec.solarize_probability) == (96, 0.3, 0.2)


def test_the_preset_of_no_augmentation_leaves_images_as_they_are() -> None:
    images = torch.rand(4, 3, 32, 32, generator=stream(0, "images"))
    assert torch.equal(Views(**ViewsSpec(preset="none").arguments())(stream(0, "views"), images), images)


def victim(project: Path, views: str) -> ViewsSpec:
    """Read a victim's views from a spec file."""
    assert "simclr_mini" in names("victims")
    text = f"kind: simclr\nbackbone: {{kind: resnet18}}\n{views}"
    (project / "specs" / "victims" / "under_test.yaml").write_text(text)
    return load("victims", "under_test")


def test_a_spec_file_may_name_presets_for_both_views(project: Path) -> None:
    spec = victim(project, "views:\n  preset: byol_imagenet_a\nviews_b:\n  preset: byol_imagenet_b\n  flip: 0.25\n")
    first, second = spec.both_views
    assert (first.blur_probability, second.blur_probability) == (1.0, 0.1)
    assert (first.flip, second.flip) == (0.5, 0.25)
    assert second.solarize_threshold == 128 / 255


def test_a_spec_file_writes_ranges_as_lists_and_thresholds_as_fractions(project: Path) -> None:
    text = "views: {size: 32, crop_scale: [0.3, 0.9], jitter: [0.1, 0, 0.3, 0.5], solarize_threshold: 1/4}\n"
    views = victim(project, text).views
    assert (views.crop_scale, views.jitter, views.solarize_threshold) == ((0.3, 0.9), (0.1, 0.0, 0.3, 0.5), 0.25)
    assert views == victim(project, text.replace("size: 32", "preset: cifar")).views.model_copy(update={"preset": None})


REFUSED = {
    "an unknown preset": (
        "views:\n  size: 32\n  preset: simclr\n",
        (5, 3, "views.preset", ["'simclr'", *NAMES]),
    ),
    "a second view of another size": (
        "views: {size: 32}\nviews_b:\n  size: 24\n",
        (5, 3, "views_b.size", ["first view's 32", "24"]),
    ),
    "padding beside a crop": (
        "views:\n  size: 32\n  padding: 4\n",
        (5, 3, "views.padding", ["excludes crop_scale", "set crop_scale to null"]),
    ),
    "a shift beside a crop": (
        "views:\n  size: 32\n  crop_scale: [0.2, 1.0]\n  shift: 1.5\n",
        (6, 3, "views.shift", ["excludes crop_scale", "set crop_scale to null"]),
    ),
    "a shift beside padding": (
        "views:\n  size: 32\n  crop_scale: null\n  padding: 4\n  shift: 1.5\n",
        (7, 3, "views.shift", ["excludes padding", "set padding to 0"]),
    ),
    "a crop beside the padding of a preset": (
        "views:\n  preset: weak\n  crop_scale: [0.2, 1.0]\n",
        (3, 1, "views.padding", ["excludes crop_scale", "set crop_scale to null"]),
    ),
    "an even kernel": (
        "views:\n  size: 32\n  blur_kernel: 4\n",
        (5, 3, "views.blur_kernel", ["must be odd", "4"]),
    ),
    "a kernel that reaches over the view": (
        "views:\n  size: 11\n  blur_probability: 0.5\n  blur_kernel: 23\n",
        (6, 3, "views.blur_kernel", ["23", "11 pixels"]),
    ),
    "bounds the wrong way round": (
        "views:\n  size: 32\n  blur_sigma: [2.0, 0.1]\n",
        (5, 3, "views.blur_sigma", ["[low, high]", "[2.0, 0.1]"]),
    ),
    "a negative shift": (
        "views:\n  size: 32\n  crop_scale: null\n  shift: -1.0\n",
        (6, 3, "views.shift", ["greater than or equal to 0"]),
    ),
    "a preset that is no name": (
        "views:\n  size: 32\n  preset: 3\n",
        (5, 3, "views.preset", ["string", "3"]),
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_a_spec_refuses_is_said_with_its_place(project: Path, case: str) -> None:
    text, (line, column, key, words) = REFUSED[case]
    with pytest.raises(SpecFault) as refused:
        victim(project, text)
    (fault,) = refused.value.faults
    assert str(fault).startswith(f"specs/victims/under_test.yaml:{line}:{column}: {key}: ")
    assert [word for word in words if word not in fault.message] == []
