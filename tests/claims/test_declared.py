"""Declared claims: the shipped ones, and every fault of a file at its place."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from engine.claims.declared import check_claims, load_claims, name_faults
from engine.claims.effects import effects_of
from engine.specfiles import SpecFault
from engine.stages.validate import check
from engine.study import StudySpec, load_study

MINE = """\
work: Mine
at: {{metric: linear, defense: none}}
claims:
  - id: X1
    says: It is so.
    source: Table 1
    at: {{study: folder/own, victim: simclr_quick}}
    effects:
      - says: it costs
        value: {{{value}}}
        {rest}
"""
OWN = """\
study:
  name: folder/own
  protocol: banked
  dataset: scenes
  poisons:
    clean: {attack: clean, init: zero}
    ap: {attack: random_noise, init: zero}
    cp_s: {attack: random_noise, init: zero}
    cp_c: {attack: random_noise, init: zero}
  victims: [simclr_quick]
  defenses: [none]
  downstream: [scenes]
  seeds: [0, 1]
"""
DROP = "quantity: drop, poison: cp_s"


def write(project: Path, value: str = DROP, rest: str = "above: 0", *, name: str = "mine") -> Path:
    """Write a study and a claim on it: the value stands in line 10, the rest of its effect in line 11."""
    file, study = project / f"specs/claims/{name}.yaml", project / "specs/studies/folder/own.yaml"
    study.parent.mkdir(exist_ok=True)
    study.write_text(OWN)
    file.write_text(MINE.format(value=value, rest=rest.replace("; ", "\n        ")))
    return file


def faults_of(file: Path) -> list[str]:
    """The faults of a file, found by itself and in the studies that it names."""
    studies: dict[str, StudySpec | None] = {"folder/own": load_study("folder/own"), "broken": None}
    found = []
    for spec, document in check_claims():
        if document.file.name == file.name:
            found += document.faults
            if spec is not None and not document.faults:
                found += name_faults(spec, document, studies)
    return [str(fault).removeprefix(f"specs/claims/{file.name}:") for fault in sorted(set(found))]


def test_the_shipped_claims_are_the_papers_eighteen_and_can_be_measured() -> None:
    (spec,) = load_claims()
    assert [claim.id for claim in spec.claims] == [f"C{number}" for number in range(1, 19)]
    effects = [effect for claim in spec.claims for effect in effects_of(spec, claim)]
    assert len(effects) >= 80
    assert len({(str(effect.value), str(effect.minus), effect.sign) for effect in effects}) >= 75
    assert {value.study for effect in effects for value in effect.values} == {
        *(f"mini/table{name}" for name in ("1", "2", "3", "4", "5", "6_moco", "6_byol", "7", "8")),
        "mini/ablation",
    }


def test_validate_reads_claims_too(project: Path) -> None:
    before, _ = check()
    write(project)
    after, faults = check()
    assert faults == []
    assert after.files == before.files + 2  # the study, and the claims on it
    write(project, "quantity: dorp, poison: cp_s")
    _, faults = check()
    assert [fault.file.name for fault in faults] == ["mine.yaml"]


EFFECT = "claims.0.effects.0"


@pytest.mark.parametrize(
    ("value", "rest", "place", "message"),
    [
        ("quantity: dorp, poison: cp_s", "above: 0", f"10:17: {EFFECT}.value.quantity", "did you mean 'drop'"),
        ("quantity: drop, posion: cp_s", "above: 0", f"10:33: {EFFECT}.value.posion", "did you mean 'poison'"),
        ("quantity: drop, poison: []", "above: 0", f"10:33: {EFFECT}.value.poison", "must hold one or more"),
        ("quantity: drop, poison: CP", "above: 0", f"10:33: {EFFECT}.value.poison", "should match pattern"),
        ("quantity: drop", "above: 0", f"10:9: {EFFECT}.value", "drop needs a poison, here or further out"),
        (DROP, "", f"9:9: {EFFECT}.above", "give either above or below"),
        (DROP, "above: 0; below: 1", f"11:9: {EFFECT}.above", "give either above or below"),
        (DROP, "above: much", f"11:9: {EFFECT}.above", "valid number"),
        (DROP, "above: 0; each: {poison: [cp_s, cp_c]}", f"10:33: {EFFECT}.value.poison", "each gives it already"),
        (DROP, "above: 0; each: {victim: []}", f"12:16: {EFFECT}.each.victim", "must hold one or more"),
        (DROP, "above: 0; each: {seed: [a, b]}", f"12:16: {EFFECT}.each.seed", "allowed: defense, downstream, poison"),
        (DROP, "above: 0; minus: {quantity: accuracy}", f"12:17: {EFFECT}.minus.quantity", "another unit"),
        ("quantity: separability, poison: [a, b]", "above: 0", f"10:9: {EFFECT}.value", "one poison by itself"),
        ("quantity: separability, poison: a", "above: 0; minus: {poison: b}", f"10:9: {EFFECT}.value", "minus none"),
    ],
)
def test_a_fault_of_an_effect_is_found_at_its_place(
    project: Path, value: str, rest: str, place: str, message: str
) -> None:
    first, *more = faults_of(write(project, value, rest))
    assert first.startswith(f"{place}: ")
    assert message in first
    assert all("separability is of one poison" in fault for fault in more)  # said of the value and of what it is minus


@pytest.mark.parametrize(
    ("value", "rest", "place", "message"),
    [
        ("quantity: drop, poison: cp_x", "above: 0", "10:33: {}.value.poison", "no poison 'cp_x'; did you mean 'cp_"),
        (
            f"{DROP}, victim: simclr",
            "above: 0",
            "10:47: {}.value.victim",
            "no victim 'simclr'; did you mean 'simclr_quick'",
        ),
        (f"{DROP}, study: mini/x", "above: 0", "10:47: {}.value.study", "there is no study 'mini/x'"),
        (DROP, "above: 0; minus: {defense: cutout}", "12:17: {}.minus.defense", "no defense 'cutout'; allowed: none"),
        (DROP, "above: 0; minus: {victim: byol_mini}", "12:17: {}.minus.victim", "no victim 'byol_mini'"),
        (
            "quantity: drop, poison: cp_s",
            "above: 0; each: {downstream: [scenes, digits]}",
            "12:16: {}.each.downstream",
            "no downstream 'digits'; allowed: scenes",
        ),
    ],
)
def test_a_name_that_the_study_has_not_is_found_where_it_is_given(
    project: Path, value: str, rest: str, place: str, message: str
) -> None:
    (fault,) = faults_of(write(project, value, rest))
    assert fault.startswith(f"{place.format(EFFECT)}: ")
    assert message in fault


def test_a_name_that_a_whole_claim_shares_is_found_once(project: Path) -> None:
    file = write(project, "quantity: drop", "above: 0; each: {poison: [cp_s, cp_c]}; minus: {poison: ap}")
    assert faults_of(file) == []
    file.write_text(file.read_text().replace("victim: simclr_quick", "victim: simclr_big"))
    (fault,) = faults_of(file)
    assert fault.startswith("7:29: claims.0.at.victim: study folder/own has no victim 'simclr_big'")


def test_what_a_broken_study_has_is_not_asked(project: Path) -> None:
    assert faults_of(write(project, "quantity: drop, poison: whatever, study: broken")) == []


def test_a_separability_needs_no_victim_of_the_study(project: Path) -> None:
    assert faults_of(write(project, "quantity: separability, poison: cp_s, victim: nobody")) == []


def test_an_id_is_given_once_in_all_files(project: Path) -> None:
    assert faults_of(write(project, name="a")) == []
    (fault,) = faults_of(write(project, name="b"))
    assert fault == "4:5: claims.0.id: 'X1' is given twice; first in specs/claims/a.yaml"
    with pytest.raises(SpecFault, match="given twice"):
        load_claims()


def test_without_claims_there_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SpecFault, match="no claim is declared"):
        load_claims()


def test_the_schema_takes_one_name_or_several() -> None:
    schema = json.loads((Path(__file__).parents[2] / "schemas/claims.json").read_text())
    poison = schema["$defs"]["Place"]["properties"]["poison"]["anyOf"]
    assert {"string", "array", "null"} == {kind for form in poison for kind in _kinds(form)}


def _kinds(form: dict[str, object]) -> list[object]:
    nested = form.get("anyOf")
    return [kind for each in nested for kind in _kinds(each)] if isinstance(nested, list) else [form["type"]]
