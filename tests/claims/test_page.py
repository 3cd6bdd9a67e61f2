"""The page of verdicts: fresh, complete, readable back; and the command that writes and checks it."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from engine.claims.declared import load_claims
from engine.claims.judging import Verdict, judge
from engine.claims.page import PAGE, page
from engine.claims.records import Records
from engine.cli import app
from engine.errors import EngineError
from engine.reporting.wording import NOTHING
from engine.stages.report import REPORTS
from tests.claims.reports import write_accuracies, write_separability

PROJECT = Path(__file__).parents[2]
MINE = """\
work: Mine, "a work"
at: {study: group/small, victim: simclr, defense: none, metric: linear}
claims:
  - id: X1
    says: It costs.
    source: Table 1
    explanation: Shown only where it is not so.
    effects:
      - {says: cp costs more than five points, value: {quantity: drop, poison: cp}, above: 5}
  - id: X2
    says: It costs much | more.
    source: Table 2
    explanation: The images are few.
    effects:
      - {says: more than five points, value: {quantity: drop, poison: cp}, above: 5}
      - {says: more than twelve points, value: {quantity: drop, poison: cp}, above: 12}
  - id: X3
    says: It costs nothing.
    source: Table 3
    effects:
      - {says: less than a point, value: {quantity: drop, poison: cp}, below: 1}
  - id: X4
    says: Nobody looked.
    source: Table 4
    effects:
      - {says: unknown, value: {quantity: alignment, poison: cp}, below: 0}
  - id: X5
    says: The noise is separable.
    source: Table 5
    effects:
      - {says: a line tells it, value: {quantity: separability, poison: cp}, above: 90}
"""
VERDICTS = {
    "X1": Verdict.REPRODUCED,
    "X2": Verdict.OPEN,
    "X3": Verdict.CONTRADICTED,
    "X4": Verdict.NOT_MEASURED,
    "X5": Verdict.REPRODUCED,
}


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project of five claims and one report, in which cp costs 10 points, 95 % interval [7.5, 12.5]."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "specs/claims").mkdir(parents=True)
    (tmp_path / "specs/claims/mine.yaml").write_text(MINE)
    clean, poisoned = [60.0, 61.0, 62.0], [51.0, 51.0, 51.0]
    cells = {("clean", "simclr", "none", "pets"): clean, ("cp", "simclr", "none", "pets"): poisoned}
    write_accuracies(tmp_path / REPORTS, "group/small", cells)
    write_separability(tmp_path / REPORTS, "group/small", cp=(1.0, 500))
    return tmp_path


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["claims", *arguments])


def section(text: str, name: str) -> str:
    return text.split(f"## {name}: ")[1].split("\n## ", maxsplit=1)[0]


def test_the_committed_page_is_fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(PROJECT)
    fresh = page(judge(load_claims(), Records(REPORTS)), REPORTS)
    assert PAGE.read_text(encoding="utf-8") == fresh, "run `python -m engine claims`"


def test_the_page_says_every_verdict_and_what_it_hangs_on(mine: Path) -> None:
    done = run()
    assert done.exit_code == 0
    text = (mine / PAGE).read_text(encoding="utf-8")
    rows = {line.split(" | ")[0].removeprefix("| "): line for line in text.splitlines() if line.startswith("| X")}
    measured = "10.0 points | 3 | [7.5, 12.5]"
    assert (
        rows["X1"] == f"| X1 | It costs. | cp costs more than five points | {measured} | above 5 points | reproduced |"
    )
    says = "It costs much \\| more. | more than twelve points (1 of 2 effects hold)"
    assert rows["X2"] == f"| X2 | {says} | {measured} | above 12 points | not at this scale |"
    assert rows["X4"].endswith(f"| {NOTHING} | {NOTHING} | {NOTHING} | below 0 | not measured |")
    assert "| 100.0 % | 500 images | [99.2, 100.0] | above 90 % | reproduced |" in rows["X5"]
    assert {name: row.split(" | ")[-1].removesuffix(" |") for name, row in rows.items()} == VERDICTS
    assert "Of 5 claims: 2 reproduced, 1 not at this scale, 1 contradicted, 1 not measured." in text
    for name, verdict in VERDICTS.items():
        assert name in done.stdout
        assert verdict in done.stdout


def test_the_page_says_where_each_number_comes_from_and_why_one_is_missing(mine: Path) -> None:
    run()
    text = (mine / PAGE).read_text(encoding="utf-8")
    link = "[group/small/accuracy.csv](../reports/group/small/accuracy.csv)"
    assert f"- From {link}; linear · clean · last; seeds 0, 1, 2\n" in section(text, "X1")
    assert (mine / PAGE.parent / "../reports/group/small/accuracy.csv").is_file()
    assert section(text, "X2").count("- From") == 1  # both effects stand in one file
    advice = "run `python -m engine study group/small` and `dvc repro`"
    assert f"- Missing: reports/group/small/training.csv does not exist; {advice}" in section(text, "X4")


def test_an_explanation_is_shown_where_a_claim_is_not_reproduced(mine: Path) -> None:
    run()
    text = (mine / PAGE).read_text(encoding="utf-8")
    shown = {name: section(text, name).partition("Why not: ")[2].strip() for name in VERDICTS}
    assert shown == {"X1": "", "X2": "The images are few.", "X3": "unknown", "X4": "", "X5": ""}


def test_the_page_repeats_itself(mine: Path) -> None:
    run()
    first = (mine / PAGE).read_bytes()
    assert run().exit_code == 0
    assert (mine / PAGE).read_bytes() == first


def test_a_committed_page_still_true_is_no_error_and_is_not_written(mine: Path) -> None:
    run()
    (mine / PAGE).rename(mine / "committed.md")
    done = run("--check", "committed.md")
    assert done.exit_code == 0
    assert "What committed.md calls reproduced is reproduced." in done.stdout
    assert "\nMeans within the intervals of committed.md: 5 of 5 effects.\n" in done.stdout
    assert not (mine / PAGE).exists()


def test_a_claim_that_is_lost_is_named_and_the_status_is_one(mine: Path) -> None:
    run()
    spec = mine / "specs/claims/mine.yaml"
    spec.write_text(MINE.replace("above: 90", "above: 99.5").replace("above: 5}", "above: 8}").replace("X5", "X6"))
    done = run("--check", str(PAGE))
    assert done.exit_code == 1
    assert isinstance(done.exception, EngineError)  # main shows it as a message
    assert str(done.exception) == (
        "docs/claims.md calls 2 claims reproduced that are not: X1 (not at this scale), X5 (declared no more)\n"
        "Means within the intervals of docs/claims.md: 4 of 4 effects."
    )
    assert "not at this scale" in done.stdout


def test_a_report_that_is_gone_loses_its_claims(mine: Path) -> None:
    run()
    (mine / REPORTS / "group/small/accuracy.csv").unlink()
    done = run("--check", str(PAGE))
    assert str(done.exception) == (
        "docs/claims.md calls 1 claim reproduced that are not: X1 (not measured)\n"
        "Means within the intervals of docs/claims.md: 1 of 1 effect."
    )


def test_a_mean_that_leaves_its_interval_is_told_and_is_no_failure(mine: Path) -> None:
    run()
    clean = [2060.0, 2061.0, 2062.0]  # separators of thousands, and a minus sign
    cells = {("clean", "simclr", "none", "pets"): clean, ("cp", "simclr", "none", "pets"): [51.0] * 3}
    write_accuracies(mine / REPORTS, "group/small", cells)
    done = run("--check", str(PAGE))
    assert done.exit_code == 0, done.exception
    assert "\nMeans within the intervals of docs/claims.md: 1 of 5 effects.\n" in done.stdout
    assert "\nX1, cp costs more than five points: 2,010.0 points, was [7.5, 12.5]\n" in done.stdout
    run()
    write_accuracies(mine / REPORTS, "group/small", {**cells, ("cp", "simclr", "none", "pets"): clean[::-1]})
    done = run("--check", str(PAGE))
    assert isinstance(done.exception, EngineError)
    assert str(done.exception).endswith("X3, less than a point: 0.0 points, was [2,007.5, 2,012.5]")


def test_what_is_no_page_of_verdicts_is_an_error(mine: Path) -> None:
    (mine / "other.md").write_text("| id | verdict |\n| X1 | maybe |\n")
    (mine / "picture.png").write_bytes(b"\x89PNG")
    for name, message in (
        ("other.md", "has no table of verdicts"),
        ("absent.md", "cannot be read"),
        ("picture.png", "cannot be read"),
    ):
        done = run("--check", name)
        assert isinstance(done.exception, EngineError)
        assert message in str(done.exception)
