"""What reports say of effects: the right column of the right lines, seed by seed, and gaps that are named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from scipy import stats

from engine.claims.judging import Finding, Verdict
from engine.claims.measuring import Estimate
from engine.claims.records import DamagedReport
from tests.claims.reports import judged, write_accuracies, write_separability, write_training

# What a study of three seeds on real images left behind, cut to the columns that are read.
REAL = """\
cell,poison,attack,victim,defense,seed,downstream,linear,knn,linear_drop,knn_drop,linear_gain_removed,train_set,select
clean-simclr-none-0,clean,clean,simclr,none,0,pets,42.25,40.15,0.0,0.0,0.0,clean,last
clean-simclr-none-1,clean,clean,simclr,none,1,pets,43.0,38.0,0.0,0.0,0.0,clean,last
clean-simclr-none-2,clean,clean,simclr,none,2,pets,42.0,38.5,0.0,0.0,0.0,clean,last
cp_s-simclr-none-0,cp_s,mini_cp_sample,simclr,none,0,pets,37.5,31.8,4.75,8.35,35.5805,clean,last
cp_s-simclr-none-1,cp_s,mini_cp_sample,simclr,none,1,pets,37.6,31.4,5.4,6.6,34.6154,clean,last
cp_s-simclr-none-2,cp_s,mini_cp_sample,simclr,none,2,pets,36.55,30.95,5.45,7.55,43.083,clean,last
(untrained)-simclr-0,(untrained),,simclr,,0,pets,28.9,23.45,,,,clean,last
"""
CP_S = {"poison": "cp_s"}


def found(root: Path, value: dict[str, Any], **effect: Any) -> Estimate:
    (judged_effect,) = judged(root, {"value": value, "above": 0, **effect}).effects
    assert judged_effect.estimate is not None, judged_effect.reason
    return judged_effect.estimate


def reason(root: Path, value: dict[str, Any], **effect: Any) -> str:
    claim = judged(root, {"value": value, "above": 0, **effect})
    assert claim.verdict is Verdict.NOT_MEASURED
    return claim.effects[0].reason


@pytest.fixture
def real(tmp_path: Path) -> Path:
    write_accuracies(tmp_path, "small", {("clean", "simclr", "none", "pets"): [1.0]})  # study.json
    (tmp_path / "small/accuracy.csv").write_text(REAL)
    return tmp_path


def test_drops_and_shares_are_those_of_the_reports_own_summary(real: Path) -> None:
    drop = found(real, {"quantity": "drop", **CP_S}).spread
    assert (drop.n, drop.mean) == (3, pytest.approx(5.2))
    assert (drop.low, drop.high) == (pytest.approx(4.2299, abs=1e-4), pytest.approx(6.1701, abs=1e-4))
    share = found(real, {"quantity": "removed", **CP_S}).spread
    assert (share.mean, share.sd) == (pytest.approx(37.7596, abs=1e-4), pytest.approx(4.6354, abs=1e-4))
    knn = found(real, {"quantity": "drop", "metric": "knn", **CP_S})
    assert knn.spread.mean == pytest.approx(7.5)
    assert (knn.protocols, knn.files, knn.seeds) == (("knn · clean · last",), ("small/accuracy.csv",), (0, 1, 2))


def test_a_difference_is_taken_seed_by_seed(real: Path) -> None:
    """The seeds of both differ by points, their difference hardly: only pairs see that."""
    gap = found(real, {"quantity": "accuracy", "poison": "clean"}, minus=CP_S)
    drop = found(real, {"quantity": "drop", **CP_S})
    assert gap.spread.low == pytest.approx(drop.spread.low)
    assert gap.spread.high == pytest.approx(drop.spread.high)
    assert gap.seeds == (0, 1, 2)


def test_what_minus_does_not_say_is_the_values(tmp_path: Path) -> None:
    cells = {
        ("clean", "simclr", "none", "pets"): [60.0, 62.0],
        ("clean", "simclr", "blur", "pets"): [58.0, 59.0],
        ("cp", "simclr", "none", "pets"): [40.0, 41.0],
        ("cp", "simclr", "blur", "pets"): [50.0, 53.0],
    }
    write_accuracies(tmp_path, "small", cells)
    recovered = found(tmp_path, {"quantity": "accuracy", "poison": "cp", "defense": "blur"}, minus={"defense": "none"})
    assert recovered.spread.mean == pytest.approx((10 + 12) / 2)
    left = found(tmp_path, {"quantity": "drop", "poison": "cp", "defense": "blur"})
    assert left.spread.mean == pytest.approx((8 + 6) / 2)  # against clean images under the same defense
    knn = found(tmp_path, {"quantity": "accuracy", "poison": "cp"}, minus={"metric": "knn"})
    assert knn.spread.mean == pytest.approx(10)


def test_several_names_are_their_mean_in_every_seed(tmp_path: Path) -> None:
    victims, poisons = ("simclr", "moco"), ("clean", "one", "two")
    cells = {
        (poison, victim, "none", "pets"): [60.0 - 10 * i - 3 * j, 61.0 - 12 * i * (j + 1)]
        for i, poison in enumerate(poisons)
        for j, victim in enumerate(victims)
    }
    write_accuracies(tmp_path, "small", cells)
    mean = found(tmp_path, {"quantity": "accuracy", "poison": ["one", "two"], "victim": ["simclr", "moco"]})
    assert mean.spread.mean == pytest.approx(((50 + 40 + 47 + 37) / 4 + (49 + 37 + 37 + 13) / 4) / 2)
    assert mean.spread.n == 2


def test_each_makes_an_effect_of_every_combination(tmp_path: Path) -> None:
    cells = {
        (poison, victim, "none", "pets"): [60.0 - i - 10 * j, 60.0 - i - 10 * j]
        for i, poison in enumerate(("clean", "one", "two"))
        for j, victim in enumerate(("simclr", "moco"))
    }
    write_accuracies(tmp_path, "small", cells)
    each = {"poison": ["one", "two"], "victim": ["simclr", "moco"]}
    claim = judged(tmp_path, {"each": each, "value": {"quantity": "drop"}, "above": 1.5})
    assert [effect.effect.says for effect in claim.effects] == [
        "it happens: one, simclr",
        "it happens: one, moco",
        "it happens: two, simclr",
        "it happens: two, moco",
    ]
    assert [effect.finding for effect in claim.effects] == [Finding.CONTRADICTED] * 2 + [Finding.HOLDS] * 2
    assert (claim.holding, claim.verdict) == (2, Verdict.CONTRADICTED)


def test_the_studys_own_data_set_counts_where_none_is_named(tmp_path: Path) -> None:
    drops = {("clean", "pets"): 0, ("cp", "pets"): 5, ("clean", "cars"): 0, ("cp", "cars"): 9}
    cells = {(poison, "simclr", "none", downstream): [60.0 - drop] * 2 for (poison, downstream), drop in drops.items()}
    write_accuracies(tmp_path, "small", cells)
    assert found(tmp_path, {"quantity": "drop", "poison": "cp"}).spread.mean == pytest.approx(5)
    assert found(tmp_path, {"quantity": "drop", "poison": "cp", "downstream": "cars"}).spread.mean == pytest.approx(9)


def test_studies_are_paired_by_the_seeds_that_both_have(tmp_path: Path) -> None:
    cells = {("clean", "simclr", "none", "pets"): [60.0, 61.0, 63.0]}
    write_accuracies(tmp_path, "small", cells)
    write_accuracies(tmp_path, "group/other", cells, first_seed=1)
    value = {"quantity": "accuracy", "poison": "clean"}
    across = found(tmp_path, value, minus={"study": "group/other"})
    assert across.seeds == (1, 2)
    assert across.spread.mean == pytest.approx((1 + 2) / 2)
    assert across.files == ("group/other/accuracy.csv", "small/accuracy.csv")
    write_accuracies(tmp_path, "far", cells, first_seed=3)
    assert reason(tmp_path, value, minus={"study": "far"}).startswith("small and far have no seed in common")


def test_measures_of_training_are_read_without_a_probe(tmp_path: Path) -> None:
    measures = {
        ("cp", seed): {"alignment": 0.1 * seed, "clean_alignment": 0.5, "uniformity": -2.0} for seed in (1, 2, 3)
    }
    write_training(tmp_path, "small", measures)
    gap = found(tmp_path, {"quantity": "alignment", "poison": "cp"}, minus={"quantity": "clean_alignment"})
    assert gap.spread.mean == pytest.approx(-0.3)
    assert gap.seeds == (1, 2, 3)
    assert (gap.files, gap.protocols) == (("small/training.csv",), ("last epoch of training",))
    uniform = found(tmp_path, {"quantity": "uniformity", "poison": "cp"}).spread
    assert (uniform.mean, uniform.low, uniform.high) == (-2.0, -2.0, -2.0)


@pytest.mark.parametrize(("share", "images"), [(0.0, 40), (0.136, 500), (0.94, 50), (1.0, 500)])
def test_a_separability_has_wilsons_interval_over_the_images_that_were_judged(
    tmp_path: Path, share: float, images: int
) -> None:
    write_separability(tmp_path, "small", cp=(share, images))
    estimate = found(tmp_path, {"quantity": "separability", "poison": "cp"})
    z = stats.norm.ppf(0.975)
    middle = (share + z**2 / (2 * images)) / (1 + z**2 / images)
    half = z / (1 + z**2 / images) * (share * (1 - share) / images + z**2 / (4 * images**2)) ** 0.5
    assert (estimate.spread.mean, estimate.spread.n) == (pytest.approx(100 * share), images)
    assert estimate.spread.low == pytest.approx(100 * (middle - half), abs=1e-6)
    assert estimate.spread.high == pytest.approx(100 * (middle + half), abs=1e-6)
    assert (estimate.counted, estimate.seeds) == ("images", ())


def test_what_is_missing_is_named_with_what_makes_it(tmp_path: Path) -> None:
    drop, advice = {"quantity": "drop", "poison": "cp"}, "run `python -m engine study small` and `dvc repro`"
    assert reason(tmp_path, drop) == f"{tmp_path}/small/study.json does not exist; {advice}"
    assert reason(tmp_path, {**drop, "study": "a/b"}).endswith("run `python -m engine study a/b` and `dvc repro`")
    clean = ("clean", "simclr", "none", "pets")
    write_accuracies(tmp_path, "small", {clean: [60.0, 61.0]})
    assert f"accuracy.csv has no line of cp, simclr, none, pets; {advice}" in reason(tmp_path, drop)
    write_accuracies(tmp_path, "small", {clean: [60.0, 61.0], ("cp", *clean[1:]): [50.0, None]})
    assert f"accuracy.csv has no linear_drop of cp-simclr-none-1, cp, pets; {advice}" in reason(tmp_path, drop)
    assert f"has no linear_drop of cp-simclr-none-1, cp, pets; {advice}" in reason(
        tmp_path, {**drop, "quantity": "removed"}
    )
    assert f"has no column head; {advice}" in reason(tmp_path, {**drop, "quantity": "accuracy", "metric": "head"})
    assert "training.csv does not exist" in reason(tmp_path, {"quantity": "alignment", "poison": "cp"})
    write_training(tmp_path, "small", {("cp", 0): {"alignment": None}})
    assert "training.csv has no alignment of cp" in reason(tmp_path, {"quantity": "alignment", "poison": "cp"})
    separability = {"quantity": "separability", "poison": "cp"}
    assert "perturbations.csv does not exist" in reason(tmp_path, separability)
    write_separability(tmp_path, "small", cp=(None, 0))
    assert "perturbations.csv has no separability of cp" in reason(tmp_path, separability)
    (tmp_path / "small/perturbations.csv").write_text("poison,separability,chance\ncp,0.5,0.1\n")
    assert "perturbations.csv has no column judged" in reason(tmp_path, separability)


def test_where_clean_training_adds_nothing_no_share_of_it_can_be_taken(real: Path) -> None:
    (real / "small/accuracy.csv").write_text(REAL.replace(",43.083,", ",,"))
    assert reason(real, {"quantity": "removed", **CP_S}).startswith(
        "small has no share of the learned gain of cp_s-simclr-none-2 on pets: clean training adds nothing there"
    )
    assert found(real, {"quantity": "drop", **CP_S}).spread.n == 3


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("36.55,30.95,5.45", "36.55,30.95,much", "linear_drop is 'much', which is no number"),
        ("36.55,30.95,5.45", "36.55,30.95,nan", "linear_drop is 'nan', which is no number"),
        ("0.0,clean,last\ncp_s", "0.0,clean\ncp_s", "is no table"),
        ("none,2,pets,36.55", "none,1,pets,36.55", "two lines of seed 1 of cp_s, simclr, none, pets"),
    ],
)
def test_a_damaged_report_is_an_error_and_not_a_gap(real: Path, before: str, after: str, message: str) -> None:
    assert REAL.count(before) == 1
    (real / "small/accuracy.csv").write_text(REAL.replace(before, after))
    with pytest.raises(DamagedReport, match=message):
        judged(real, {"value": {"quantity": "drop", **CP_S}, "above": 0})


def test_cells_of_different_seeds_have_no_mean(tmp_path: Path) -> None:
    write_training(tmp_path, "small", {(*cell,): {"alignment": 0.5} for cell in (("one", 0), ("one", 1), ("two", 0))})
    with pytest.raises(DamagedReport, match="small has cells of different seeds"):
        judged(tmp_path, {"value": {"quantity": "alignment", "poison": ["one", "two"]}, "above": 0})


def test_a_share_that_is_none_is_an_error(tmp_path: Path) -> None:
    for wrong in ((1.5, 500), (0.5, 0)):
        write_separability(tmp_path, "small", cp=wrong)
        with pytest.raises(DamagedReport, match=r"of \d+ images of cp are told; restore the report"):
            judged(tmp_path, {"value": {"quantity": "separability", "poison": "cp"}, "above": 0})


def test_a_report_without_its_data_set_is_an_error(real: Path) -> None:
    (real / "small/study.json").write_text('{"study": {}}')
    with pytest.raises(DamagedReport, match=r"study\.json does not say study\.dataset"):
        judged(real, {"value": {"quantity": "drop", **CP_S}, "above": 0})
