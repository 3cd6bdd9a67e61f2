"""A study of 200 cells on CIFAR-10 from its files to its tables: published figures, backbones, times, commands."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.artifacts.files import write_json
from engine.reporting.board import UNKNOWN, Board
from engine.reporting.content import Content, gather
from engine.reporting.page import render_page
from engine.reporting.provenance import resolved_specs
from engine.reporting.records import write_records
from engine.reporting.results import probe_stage, read_results
from engine.reporting.wording import NOTHING
from engine.stages.report import report
from engine.study import Cell, cost_path, load_study
from tests.reporting import large

PROVENANCE = {
    "command": "dvc repro",
    "dataset_checksum": "c1fa" * 16,
    "revision": {"commit": None, "dirty": None},
    "python": "3.11",
    "packages": {},
    "device": "a machine",
}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    root = tmp_path_factory.mktemp("large")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setenv("GIT_CEILING_DIRECTORIES", str(root.parent))
        large.write_study(root)
        yield root


def content_of(name: str = large.NAME) -> Content:
    results = read_results(load_study(name))
    return gather(results, [], {"specs": resolved_specs(results), "provenance": PROVENANCE})


@pytest.fixture(scope="module")
def content(study: Path) -> Content:
    return content_of()


@pytest.fixture(scope="module")
def boards(content: Content) -> dict[str, Board]:
    return {board.name: board for board in content.boards}


def test_nothing_is_missing_of_200_cells(content: Content) -> None:
    assert content.results.missing == []
    assert len(content.results.accuracies) == 200
    assert len(content.rows) == 200 + 5 * 4
    assert len(content.results.costs) == 5 + 200 + 200 + 20


def test_published_figures_stand_beside_measured_ones_with_what_differs(boards: dict[str, Board]) -> None:
    board = boards["published"]
    assert board.headings == (
        *("poison", "victim", "defense", "measured (%)", "published (%)", "source", "differs in (published)"),
    )
    lines = {line[:3]: line[3:] for line in board.lines}
    assert len(lines) == len(board.lines) == 5 * 5 * 2 + 2  # every cell, and an average of each SimCLR
    images = "images 60 (50,000)"
    probe = "probe linear copies 10 (100); probe linear select last (best)"
    assert lines["cp_s", "simclr", "none"] == (
        "45.8 ± 0.6 (n = 4)",
        "44.9",
        "Tables 1, 3 and 8; official README (its noise: round 160 of 200) (inferred: that Table 8 repeats it)",
        f"{images}; attack quantization round (truncate); {probe}",
    )
    assert lines["clean", "simclr_resnet34", "none"][1:] == (
        *("91.8", "Figure 1 (inferred: which bar it is, and that Table 1 repeats it)"),
        f"{images}; victim backbone resnet34 (resnet18); {probe}",
    )
    assert lines["cp_c", "supervised", "none"] == (
        *("62.8 ± 0.6 (n = 4)", "10 (rounded)", "Table 4, as the text rounds it"),
        f"{images}; attack quantization round (truncate)",
    )
    assert "attack init uniform (class contrastive_poisoning)" in lines["cp_s_moco", "moco_v2", "none"][3]
    assert lines["noise", "simclr", "none"][1:] == (UNKNOWN, NOTHING, NOTHING)
    assert lines["cp_s", "byol", "none"][1] == UNKNOWN
    known = [line[4] != UNKNOWN for line in board.lines]
    assert known == sorted(known, reverse=True)  # the known ones first
    assert sum(known) == 5 + 3 + 2 + 1 + 2


def test_a_published_average_stands_beside_the_average_of_every_seed(boards: dict[str, Board]) -> None:
    line = next(line for line in boards["published"].lines if line[0].startswith("average"))
    mean = sum(large.linear_of(p, "simclr", "matrix_completion", s) for p in ("cp_s", "cp_c") for s in range(4)) / 8
    assert mean == 73.5
    assert line[:5] == ("average of cp_s and cp_c", "simclr", "matrix_completion", "73.5 ± 0.6 (n = 4)", "86.9")
    record = boards["published"].records[[*boards["published"].lines].index(line)]
    assert (record["accuracy"], record["published"], record["published_is_rough"], record["n"]) == (
        73.5,
        86.9,
        False,
        4,
    )


def test_no_published_figure_is_ever_subtracted(boards: dict[str, Board]) -> None:
    assert {name for record in boards["published"].records for name in record} == {
        *("poison", "victim", "defense", "downstream", "measure", "accuracy", "accuracy_sd", "n"),
        *("published", "published_is_rough", "source", "inferred", "differences"),
    }


def test_victims_that_differ_in_their_backbone_alone_have_a_table(boards: dict[str, Board]) -> None:
    board = boards["backbones"]
    assert board.headings[:6] == ("backbone", "victim", "defense", "clean (%)", "noise (%)", "drop (points)")
    assert [line[:3] for line in board.lines] == [
        (backbone, victim, defense)
        for backbone, victim in (("resnet18", "simclr"), ("resnet34", "simclr_resnet34"))
        for defense in ("none", "matrix_completion")
    ]
    assert board.lines[2][3:7] == ("89.8 ± 0.6", "88.8 ± 0.6", "1.0 ± 0.0 [1.0, 1.0]", "65.8 ± 0.6")
    assert {record["victim"] for record in board.records} == {"simclr", "simclr_resnet34"}
    assert "branches" not in boards


def test_times_are_summed_a_stage(boards: dict[str, Board]) -> None:
    assert boards["time"].lines == (
        ("generate", "cpu", "5 of 5", "10 min 00 s", "2 min 00 s", NOTHING, "1.50 GiB"),
        ("pretrain", "cpu", "200 of 200", "16 h 40 min", "5 min 00 s", "1.5 s", "1.50 GiB"),
        ("probe", "cpu", "200 of 200", "41 min 40 s", "12.5 s", NOTHING, "1.50 GiB"),
        ("floor", "cpu", "20 of 20", "3 min 20 s", "10.0 s", NOTHING, "1.50 GiB"),
    )


def test_every_form_holds_the_commands_and_the_same_tables(content: Content, study: Path) -> None:
    folder = study / "written"
    folder.mkdir()
    write_records(folder, content)
    tables = {"accuracy", "summary", *(board.name for board in content.boards)}
    assert {file.stem for file in folder.glob("*.tex")} == tables
    assert {file.stem for file in folder.glob("*.csv")} == {*tables, "training"}
    rows = {
        name: [*csv.DictReader((folder / f"{name}.csv").read_text().splitlines())]
        for name in ("accuracy", "summary", "cost")
    }
    cell = Cell(large.DATASET, "cp_s", "byol", "none", 2)
    own = next(row for row in rows["accuracy"] if row["cell"] == cell.key)
    assert own["command"] == "dvc repro probe@cp_s-byol-none-2-cifar10"
    assert rows["accuracy"][-1]["command"] == "dvc repro floor@supervised-3-cifar10"
    seeds = " ".join(f"probe@cp_s-byol-none-{seed}-cifar10" for seed in range(4))
    assert f"dvc repro {seeds}" in {row["command"] for row in rows["summary"]}
    assert [row["command"] for row in rows["cost"]] == [f"dvc repro generate@{name}" for name in large.POISONS]
    assert rows["cost"][3]["seconds"] == "120.0"
    latex = (folder / "accuracy.tex").read_text().splitlines()
    assert len(latex) == 220 + 7
    line = next(line for line in latex if line.startswith(r"  cp\_s & byol & none & cifar10 & 2 & "))
    assert line.endswith(r" & 43.0 & 45.0 & 78 & 38.0 & 45.0 & 78 & -- & -- & -- & clean \(\cdot\) last \\")
    assert "| `dvc repro generate@cp_s` |" in (folder / "summary.md").read_text()
    assert "| poison | attack | starts from | image-views |" in (folder / "summary.md").read_text()
    assert set(json.loads((folder / "study.json").read_text())["boards"]) == tables - {"accuracy", "summary"}


def test_the_page_holds_every_command_once_and_the_published_figures(content: Content) -> None:
    page = render_page(content, _no_sheets(content), None)
    for stage in content.results.costs:
        if not stage.startswith("pretrain"):
            assert page.count(f"<code>dvc repro {stage}</code>") == 1
    assert page.count("10 (rounded)</td>") == 1
    assert "Table 4, as the text rounds it" in page


def _no_sheets(content: Content) -> dict[str, object]:
    class Empty:
        def panel_pngs(self) -> list[tuple[str, bytes]]:
            return []

    return {"accuracy": Empty(), "training": Empty()}


def test_two_ways_of_judging_are_both_said(study: Path) -> None:
    cell = Cell(large.DATASET, "clean", "simclr", "none", 1)
    file = cell.probe(large.DATASET)
    before = file.read_text()
    file.write_text(before.replace('"last"', '"best"'))
    try:
        board = next(board for board in content_of().boards if board.name == "published")
    finally:
        file.write_text(before)
    line = next(line for line in board.lines if line[:3] == ("clean", "simclr", "none"))
    assert line[-1].endswith("probe linear copies 10 (100); probe linear select last (best)")
    file.write_text(before.replace('"train_set": "clean"', '"train_set": "poisoned"'))
    try:
        board = next(board for board in content_of().boards if board.name == "published")
    finally:
        file.write_text(before)
    line = next(line for line in board.lines if line[:3] == ("clean", "simclr", "none"))
    assert line[-1].endswith("select last (best); probe train set poisoned (clean)")


def test_times_of_different_devices_are_never_added(study: Path) -> None:
    files = {seed: cost_path("cifar10", probe_stage(f"clean-simclr-none-{seed}", "cifar10")) for seed in (0, 1)}
    before = {seed: file.read_text() for seed, file in files.items()}
    write_json(files[0], {"seconds": 4.0, "peak_memory_bytes": 2**20, "device": "cuda"})
    files[1].unlink()
    try:
        board = next(board for board in content_of().boards if board.name == "time")
    finally:
        for seed, file in files.items():
            file.write_text(before[seed])
    assert {line[:5] + line[6:] for line in board.lines if line[0] == "probe"} == {
        ("probe", "cuda", "1 of 200", "4.0 s", "4.0 s", "1.0 MiB"),
        ("probe", "cpu", "198 of 200", "41 min 15 s", "12.5 s", "1.50 GiB"),
    }


@pytest.mark.slow
def test_the_whole_report_is_written(study: Path) -> None:
    folder = report(large.NAME)
    drawn = ("accuracy", "cost", "training", "view_distances", "perturbations", "separability", "spectra", "defenses")
    assert {file.stem for file in folder.glob("*.png")} == set(drawn) == {file.stem for file in folder.glob("*.svg")}
    assert (folder / "index.html").stat().st_size > 1_000_000
