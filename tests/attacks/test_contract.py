"""What every attack promises, whatever its kind: each is run through the stage that releases its poison."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from engine import plugins
from engine.artifacts import ReleasedPoison, read_poison
from engine.protocols import ImageSet, Split
from engine.spec import DatasetSpec
from engine.specfiles import SpecFault, load
from engine.stages.dispatch import dispatch
from engine.stages.generate import generate_job
from engine.stages.validate import validate

KINDS = plugins.kinds("attacks")
CLASSES, PER_CLASS, SIZE = 3, 8, 8


def surrogate(kind: str, **changes: Any) -> dict[str, Any]:
    backbone = {"kind": "resnet18", "width": 4, "stages": [1]}
    return {"kind": kind, "backbone": backbone, "views": {"size": SIZE}, "batch_size": 6, **changes}


def released_by_others() -> bytes:
    """Noise of eight grey levels for the images below, as a file of NumPy."""
    noise = torch.randint(-8, 9, (CLASSES * PER_CLASS, 3, SIZE, SIZE), generator=torch.Generator().manual_seed(1))
    buffer = io.BytesIO()
    np.savez(buffer, noise=noise.numpy() / 255)
    return buffer.getvalue()


RELEASED = released_by_others()
SMALL: dict[str, dict[str, Any]] = {
    "aap": {"epsilon": "8/255", "pgd_steps": 2, "step_size_rel": 0.5, "surrogate": surrogate("supervised", epochs=1)},
    "adversarial_poisoning": {
        "epsilon": "8/255",
        "pgd_steps": 2,
        "noise_batch_size": 10,
        "trials": 2,
        "surrogate": surrogate("supervised", epochs=1),
    },
    "aue": {"epsilon": "8/255", "pgd_steps": 1, "surrogate": surrogate("supervised", epochs=1)},
    "clean": {},
    "clean_remainder": {"poison_fraction": 0.5},
    "imported": {
        "epsilon": "8/255",
        "path": "released.npz",
        "layout": "npz",
        "sha256": hashlib.sha256(RELEASED).hexdigest(),
    },
    "random_noise": {"epsilon": "8/255"},
    "contrastive_poisoning": {
        "epsilon": "8/255",
        "granularity": "sample",
        "rounds": 1,
        "model_steps": 1,
        "noise_steps": 4,
        "pgd_steps": 1,
        "surrogate": surrogate("simclr"),
    },
    "tue": {
        "epsilon": "8/255",
        "rounds": 1,
        "model_steps": 1,
        "pgd_steps": 1,
        "ssl_weight": 1.0,
        "csd_weight": 0.1,
        "surrogate": surrogate("simclr"),
    },
    "unlearnable_examples": {
        "epsilon": "8/255",
        "granularity": "sample",
        "max_rounds": 2,
        "model_steps": 2,
        "pgd_steps": 2,
        "surrogate": surrogate("supervised"),
    },
}
"""The smallest settings of each kind; the only place where a kind is named."""


def images() -> Split:
    generator = torch.Generator().manual_seed(5)
    pixels = torch.randint(0, 256, (CLASSES * PER_CLASS, 3, SIZE, SIZE), generator=generator, dtype=torch.uint8)
    pixels[0], pixels[1] = 0, 255  # the budget must hold where it meets the pixel range
    train = ImageSet(pixels, torch.arange(CLASSES).repeat(PER_CLASS), ("a", "b", "c"))
    return Split(train, train)


@pytest.fixture
def release(project: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run the stage for one attack spec on twenty-four random images."""
    spec = DatasetSpec(kind="random", image_size=SIZE)
    monkeypatch.setattr("engine.stages.generate.load_dataset", lambda name: (spec, images()))
    validate("quickstart")
    Path("data").mkdir()
    Path("data/released.npz").write_bytes(RELEASED)

    def run(kind: str, name: str = "p", init: str = "zero", **changes: Any) -> ReleasedPoison:
        values = {"kind": kind, **SMALL[kind], **changes}
        Path(f"specs/attacks/under_test_{name}.yaml").write_text(json.dumps(values))
        (Path("artifacts") / "digits" / "poison").mkdir(parents=True, exist_ok=True)
        return read_poison(dispatch(generate_job("digits", name, f"under_test_{name}", init, "fp32"), "local"))

    return run


def test_every_kind_has_its_smallest_settings() -> None:
    assert set(SMALL) == set(KINDS)
    assert len(KINDS) >= 3


@pytest.mark.parametrize("kind", KINDS)
class TestContract:
    def test_the_budget_holds_in_eight_bits_and_labels_stay(self, release: Any, kind: str) -> None:
        released = release(kind)
        clean = images().train[released.rows]
        difference = (released.images.images_u8.int() - clean.images_u8.int()).abs()
        assert difference.max() <= round(released.manifest["epsilon"] * 255)
        assert released.manifest["max_difference_levels"] == difference.max()
        assert torch.equal(released.images.labels, clean.labels)
        assert released.images.class_names == clean.class_names

    def test_the_same_seed_gives_the_same_bytes_and_another_seed_does_not(self, release: Any, kind: str) -> None:
        first, again = release(kind, "one").manifest["files"], release(kind, "two").manifest["files"]
        assert {**first, "README.md": ""} == {**again, "README.md": ""}  # the card says the name
        other = release(kind, "three", seed=1).manifest
        if (other["epsilon"] > 0 or "withheld" in other) and plugins.module_of("attacks", kind).Spec.draws:
            assert other["files"] != first

    def test_a_fraction_leaves_the_other_images_as_they_are(self, release: Any, kind: str) -> None:
        released, clean = release(kind, poison_fraction=0.25), images().train
        untouched = released.rows[~released.perturbed]
        assert torch.equal(released.images.images_u8[~released.perturbed], clean.images_u8[untouched])
        others = torch.ones(CLASSES * PER_CLASS, dtype=torch.bool)
        others[untouched] = False  # perturbed or withheld
        assert torch.bincount(clean.labels[others]).tolist() == [PER_CLASS * 0.25] * CLASSES

    def test_its_spec_says_which_share_it_withholds(self, release: Any, kind: str) -> None:
        released = release(kind, poison_fraction=0.25)
        kept = round((1 - load("attacks", "under_test_p").withheld_fraction) * PER_CLASS)
        assert torch.bincount(released.images.labels).tolist() == [kept] * CLASSES
        assert released.manifest.get("withheld", 0) == CLASSES * (PER_CLASS - kept)

    @pytest.mark.parametrize("changes", [{}, {"poison_fraction": 0.5, "seed": 3}])
    def test_its_spec_predicts_its_cost(self, release: Any, kind: str, changes: dict[str, Any]) -> None:
        counted = release(kind, **changes).manifest["image_views"]
        spec = load("attacks", "under_test_p")
        predicted = spec.image_views(CLASSES * PER_CLASS)
        assert counted <= predicted if spec.may_end_early else counted == predicted
        assert (predicted > 0) == (spec.learner is not None)

    def test_its_spec_says_which_granularity_it_makes(self, release: Any, kind: str) -> None:
        manifest = release(kind).manifest
        said = manifest["attack"]["spec"].get("granularity", manifest["granularity"])
        assert manifest["granularity"] == said


def test_released_images_are_the_clean_ones_plus_the_stored_levels(release: Any) -> None:
    released, clean = release("random_noise", granularity="class"), images().train
    levels = (released.poison.delta() * 255).round().int()[clean.labels]
    expected = (clean.images_u8.int() + levels).clamp(0, 255)
    assert torch.equal(released.images.images_u8.int(), expected)


def test_the_clean_remainder_is_what_an_attack_of_the_same_seed_leaves_clean(release: Any) -> None:
    attacked = release("random_noise", "attacked", poison_fraction=0.625, seed=3)
    remainder = release("clean_remainder", "remainder", poison_fraction=0.625, seed=3)
    assert remainder.rows.tolist() == (~attacked.perturbed).nonzero().squeeze(1).tolist()
    assert torch.equal(remainder.images.images_u8, images().train.images_u8[remainder.rows])
    assert not remainder.perturbed.any()
    manifest = remainder.manifest
    assert (manifest["images"], manifest["withheld"], manifest["perturbed"]) == (9, 15, 0)
    assert (manifest["max_difference_levels"], manifest["image_views"]) == (0, 0)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"poison_fraction": 1}, r"poison_fraction: input should be less than 1, given 1"),
        ({"poison_fraction": 0}, r"poison_fraction: input should be greater than 0, given 0"),
        ({}, r"poison_fraction: is required and missing"),
    ],
)
def test_a_remainder_of_nothing_or_of_everything_is_refused(project: Path, changes: dict[str, Any], words: str) -> None:
    Path("specs/attacks/r.yaml").write_text(json.dumps({"kind": "clean_remainder", **changes}))
    with pytest.raises(SpecFault, match=words):
        load("attacks", "r")


@pytest.mark.parametrize("kind", ["aap", "adversarial_poisoning", "aue", "unlearnable_examples"])
def test_noise_that_aims_at_classes_asks_for_a_surrogate_that_learns_them(project: Path, kind: str) -> None:
    for learner in plugins.kinds("victims"):
        values = {"kind": kind, **SMALL[kind], "surrogate": surrogate(learner)}
        Path("specs/attacks/s.yaml").write_text(json.dumps(values))
        if plugins.module_of("victims", learner).Spec.classifies:
            assert load("attacks", "s").surrogate.kind == learner
        else:
            with pytest.raises(SpecFault, match=rf"surrogate\.kind: given \"{learner}\".*; allowed: supervised"):
                load("attacks", "s")


@pytest.mark.parametrize(
    ("kind", "changes", "predicted"),
    [
        ("contrastive_poisoning", {"restarts": 1, "rounds": 2}, 2 * 2 * (1 + 4) * 6 * 2),
        ("tue", {"ssl_weight": 0}, 0),
        ("adversarial_poisoning", {"views": {"size": SIZE}}, 24 + 2 * 2 * 24),
        ("adversarial_poisoning", {"surrogate": surrogate("supervised", epochs=3, batch_size=10)}, 3 * 20 + 2 * 2 * 24),
        ("unlearnable_examples", {"target_error": 0, "min_rounds": 2}, 2 * (2 * 6 + 2 * 24)),
    ],
)
def test_a_predicted_cost_is_that_of_the_settings(
    release: Any, kind: str, changes: dict[str, Any], predicted: int
) -> None:
    manifest = release(kind, **changes).manifest
    assert load("attacks", "under_test_p").image_views(CLASSES * PER_CLASS) == predicted
    assert manifest["image_views"] == predicted


def test_a_poison_starts_from_another(release: Any) -> None:
    release("random_noise", "first", granularity="class")
    still = {"rounds": 1, "model_steps": 1, "noise_steps": 1, "pgd_steps": 1, "step_size_rel": 1e-6}
    second = release("contrastive_poisoning", "second", init="first", **still)
    first = read_poison(Path("artifacts/digits/poison/first"))
    clean = images().train
    assert torch.allclose(second.poison.delta(), first.poison.delta(clean.labels), atol=1e-6)
