"""The report of a small study on disk: files, numbers, a page that needs no network, and gaps that are named."""

from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from engine.artifacts import write_poison
from engine.artifacts.files import write_json
from engine.cli import app
from engine.errors import EngineError
from engine.protocols import Defense, ImageSet, Poison
from engine.reporting.results import read_results
from engine.reporting.tables import accuracy_rows, summarise
from engine.reporting.wording import COLUMNS, cell
from engine.specfiles import load, resolved
from engine.stages.perturbations import measure_perturbation
from engine.stages.report import report
from engine.study import Cell, cells, floor_path, load_study, perturbation_path, poison_path
from engine.training.defending import ImageDefense
from tests.claims.reports import judged
from tests.making import about

SPECS = {
    "attacks/clean": "kind: clean",
    "attacks/random_noise": "kind: random_noise\nepsilon: 8/255",
    "datasets/tiny": "kind: folder",
    "defenses/none": "kind: none",
    "protocols/banked": "train_set: clean",
    "victims/simclr_a": "kind: simclr\nbackbone: {kind: resnet18}\nviews: {size: 32}",
    "victims/simclr_b": "kind: simclr\nbackbone: {kind: resnet18}\nviews: {size: 32}",
    "studies/tiny": """
study:
  name: tiny
  description: Is <i>noise</i> & its like harmful? "No", we think.
  dataset: tiny
  poisons:
    clean: {attack: clean, init: zero}
    noise: {attack: random_noise, init: zero}
    again: {attack: random_noise, init: noise}
  victims: [simclr_a, simclr_b]
  defenses: [none]
  downstream: [tiny]
  seeds: [0, 1]
  protocol: banked
""",
}
FILES = {
    "index.html",
    "study.json",
    "summary.md",
    "training.csv",
    *(
        f"{table}.{kind}"
        for table in ("accuracy", "summary", "transfer", "worst_case", "cost", "time", "perturbations")
        for kind in ("csv", "tex")
    ),
    *(
        f"{figure}.{kind}"
        for figure in ("accuracy", "cost", "training", "perturbations", "separability", "spectra")
        for kind in ("png", "svg")
    ),
}
COLUMNS_OF_ACCURACY = (
    "cell,poison,attack,victim,defense,seed,downstream,linear,knn,floor_linear,floor_knn,linear_drop,knn_drop,"
    "linear_gain_removed,knn_gain_removed,train_set,select"
)


class Page(HTMLParser):
    """What a page says and where it points; every opened tag must be closed."""

    VOID = frozenset({"meta", "img", "br", "link", "input", "hr", "source"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.words: list[str] = []
        self.styles: list[str] = []
        self.scripts: list[str] = []
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        inside = {"style": self.styles, "script": self.scripts}.get(self.open[-1] if self.open else "", self.words)
        inside.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).replace("\N{NO-BREAK SPACE}", " ").split())

    def values(self, *names: str) -> Iterator[tuple[str, str]]:
        return ((tag, value) for tag, name, value in self.attributes if name in names)


@dataclass(frozen=True)
class Report:
    """A report, and what making it printed."""

    folder: Path
    printed: str

    @property
    def page(self) -> Page:
        return page_of(self.folder)


def make_study(root: Path) -> None:
    """Write a finished study of twelve cells into the working folder, which is ``root``."""
    for name, text in SPECS.items():
        file = root / "specs" / f"{name}.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    Path("params.yaml").write_text("precision: fp32\nlayout: local\n")
    spec = load_study("tiny")
    for name in spec.poisons:
        write_tiny_poison(name, spec.poisons[name].attack)
    for place, run in enumerate(cells(spec)):
        write_probe(run.probe("tiny"), round(60.123 + place, 4), round(50.456 + place, 4))
        run.curve.parent.mkdir(parents=True, exist_ok=True)
        run.curve.write_text("epoch,loss,lr\n1,4.5,0.1\n2,3.25,0.1\n")
    for victim in spec.victims:
        for seed in spec.seeds:
            write_probe(floor_path("tiny", victim, seed, "tiny"), 30.5 + seed, 20.25)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Report]:
    """The report of the finished study, made by a process of its own; nobody may change it."""
    root = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setenv("GIT_CEILING_DIRECTORIES", str(root.parent))
        make_study(root)
        code = (
            "import sys\nfrom engine.stages.report import report\nreport('tiny')\n"
            "print('imported:', {'matplotlib.pyplot', 'sklearn', 'torch'} & set(sys.modules))"
        )
        done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
        yield Report(root / "reports" / "tiny", done.stdout)


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same study, to be changed; its folder is the working folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    make_study(tmp_path)
    return tmp_path


def write_probe(file: Path, linear: float, knn: float) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    content = {"linear": linear, "knn": knn, "train_set": "clean", "select": "last"}
    content |= {"train_images": 40, "test_images": 20, "numerics": 1}
    file.write_text(json.dumps(content))


def write_tiny_poison(name: str, attack: str) -> None:
    generator = torch.Generator().manual_seed(0)
    clean = torch.randint(20, 230, (4, 3, 8, 8), generator=generator, dtype=torch.uint8)
    bound = 0 if attack == "clean" else 8
    levels = torch.randint(-bound, bound + 1, clean.shape, generator=generator).to(torch.int8)
    images = ImageSet(clean, torch.tensor([0, 1, 0, 1]), ("cat", "dog"))
    made_of = about(
        name=name,
        dataset={"name": "tiny", "spec": {"kind": "folder"}, "checksum": "5eed" * 16},
        attack={"name": attack, "spec": resolved(load("attacks", attack)), "init": "zero"},
        epsilon=bound / 255,
    )
    poison = Poison(levels, "sample", 1500 * bound, unit=1 / 255)
    released = ImageSet((clean.int() + levels).to(torch.uint8), images.labels, images.class_names)
    target = poison_path("tiny", name)
    perturbed = torch.ones(4, dtype=torch.bool)
    write_poison(target, clean=images, released=released, poison=poison, perturbed=perturbed, about=made_of)
    measured = measure_perturbation(images, released.images_u8, poison, perturbed)
    write_json(perturbation_path("tiny", name), measured)


def page_of(folder: Path) -> Page:
    return Page((folder / "index.html").read_text(encoding="utf-8"))


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "accuracy.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_a_report_has_all_its_files_and_prints_its_table(finished: Report) -> None:
    assert {file.name for file in finished.folder.iterdir()} == FILES
    assert "reports/tiny/index.html" in finished.printed
    assert "60.6 ± 0.7" in finished.printed  # clean, simclr_a, seeds 0 and 1
    assert "missing" not in finished.printed


def test_a_report_needs_neither_pyplot_nor_torch(finished: Report) -> None:
    assert "imported: set()" in finished.printed


def test_a_poison_that_was_not_measured_is_missing_and_the_rest_is_drawn(study: Path) -> None:
    perturbation_path("tiny", "noise").unlink()
    folder = report("tiny")
    with (folder / "perturbations.csv").open(newline="") as stream:
        assert [row["poison"] for row in csv.DictReader(stream)] == ["again"]
    (gap,) = read_results(load_study("tiny")).missing
    assert gap.command == "dvc repro generate@noise"
    assert gap.reason.startswith("artifacts/tiny/perturbation/noise.json does not exist")
    assert gap.command in page_of(folder).text


def test_accuracy_csv_holds_every_cell_and_every_floor(finished: Report) -> None:
    assert (finished.folder / "accuracy.csv").read_text().splitlines()[0] == f"{COLUMNS_OF_ACCURACY},command"
    rows = rows_of(finished.folder)
    assert len(rows) == 12 + 4
    row = next(row for row in rows if row["cell"] == "noise-simclr_b-none-1")
    assert (row["attack"], row["linear"], row["floor_linear"]) == ("random_noise", "67.123", "31.5")
    assert float(row["linear_drop"]) == pytest.approx(63.123 - 67.123)
    assert float(row["linear_gain_removed"]) == pytest.approx(100 * -4 / (63.123 - 31.5), abs=1e-3)
    assert float(row["knn_gain_removed"]) == pytest.approx(100 * -4 / (53.456 - 20.25), abs=1e-3)
    assert sum(row["poison"] == "(untrained)" for row in rows) == 4


def test_the_page_shows_every_number_of_the_tables(finished: Report, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(finished.folder.parents[1])
    results = read_results(load_study("tiny"))
    rows, text = accuracy_rows(results), finished.page.text
    shown = 0
    for summary in summarise(rows):
        for column in COLUMNS:
            for written in filter(None, cell(summary, column, results.reference)):
                assert written in text
                shown += 1
    assert shown >= 8 * 6
    for row in rows:
        assert f"{row.linear:.1f}" in text
        assert f"{row.knn:.1f}" in text
    assert text.count("clean · last") >= len(rows)
    for fact in (
        "5eed" * 16,
        "random_noise",
        "12,000",
        "24,000",
        "8 grey levels",
        "torch",
        "dvc repro",
        "quantization",
    ):
        assert fact in text


def test_the_page_needs_no_network(finished: Report) -> None:
    page = finished.page
    addresses = [*page.values("src", "href", "srcset", "action", "data", "poster")]
    assert len(addresses) >= 2 + 2 + 12  # two figures of two victims, two poisons of two classes, three pictures each
    for tag, value in addresses:
        assert value.startswith("data:image/png;base64,") if tag == "img" else value in FILES, value[:60]
    styles = " ".join([*page.styles, *(value for _, value in page.values("style"))])
    assert styles
    assert not re.search(r"url\(|@import|https?:|//\w", styles)
    assert not {"script", "link", "iframe"} & {tag for tag, _, _ in page.attributes}  # the script has no attribute
    assert len("".join(page.scripts)) > 1000
    assert not re.search(r"https?:|fetch|XMLHttp|WebSocket|\bimport\b|eval", "".join(page.scripts))
    assert any(value.startswith("default-src 'none'") for _, value in page.values("content"))
    assert "http:" not in page.text
    assert all(value.strip() for _, value in page.values("alt"))
    assert sum(1 for _ in page.values("alt")) == sum(tag == "img" for tag, _ in addresses)


def test_what_a_study_says_of_itself_is_text_not_markup(finished: Report) -> None:
    assert "<i>noise</i>" not in (finished.folder / "index.html").read_text()
    assert 'Is <i>noise</i> & its like harmful? "No", we think.' in finished.page.text


def test_claims_are_judged_from_the_files_of_a_report(finished: Report) -> None:
    removed, aligned = (
        {"value": {"quantity": quantity, "poison": "noise", "victim": ["simclr_a", "simclr_b"]}, "above": -50}
        for quantity in ("removed", "alignment")
    )
    separable = {"value": {"quantity": "separability", "poison": "noise"}, "below": 50}
    claim = judged(finished.folder.parent, removed, aligned, separable, at={"study": "tiny"})
    (share, alignment, separability), rows = claim.effects, rows_of(finished.folder)
    assert share.estimate is not None
    assert separability.estimate is not None
    shares = {row["cell"]: float(row["linear_gain_removed"]) for row in rows if row["poison"] == "noise"}
    assert len(shares) == 4
    assert share.estimate.spread.mean == pytest.approx(sum(shares.values()) / 4)
    assert share.estimate.seeds == (0, 1)
    assert separability.estimate.spread.n == 2  # one half of four images
    gap = "training.csv has no alignment of noise-simclr_a-none-0, noise;"  # the curves here have losses alone
    assert alignment.reason.startswith(f"{finished.folder}/{gap}")


def test_study_json_holds_the_resolved_study_and_every_number(finished: Report) -> None:
    content: dict[str, Any] = json.loads((finished.folder / "study.json").read_text())
    assert content["study"]["seeds"] == [0, 1]
    assert content["reference"] == "clean"
    assert content["specs"]["victims"]["simclr_a"]["temperature"] == 0.5
    assert content["specs"]["protocol"]["banked"]["knn"]["k"] == 20
    assert len(content["rows"]) == 16
    summary = next(s for s in content["summary"] if (s["poison"], s["victim"]) == ("noise", "simclr_a"))
    drop = summary["measures"]["linear_drop"]
    assert (drop["n"], drop["mean"], drop["low"], drop["high"]) == (2, -4.0, -4.0, -4.0)
    assert content["final_losses"]["clean-simclr_a-none-0"] == 3.25
    assert content["poisons"]["noise"]["max_difference_levels"] == 8
    assert set(content["provenance"]["packages"]) == {"torch", "torchvision", "numpy", "pillow", "dvc"}
    assert content["provenance"]["revision"] == {"commit": None, "dirty": None}


def test_the_same_results_give_the_same_bytes(finished: Report, study: Path) -> None:
    again = report("tiny")
    assert again == Path("reports/tiny")
    assert {file.name: file.read_bytes() for file in again.iterdir()} == {
        file.name: file.read_bytes() for file in finished.folder.iterdir()
    }


def test_missing_and_damaged_results_are_named_and_the_rest_is_reported(
    study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed in (0, 1):
        Cell("tiny", "noise", "simclr_a", "none", seed).probe("tiny").unlink()
    Cell("tiny", "again", "simclr_b", "none", 1).probe("tiny").write_text('{"linear": 400}')
    Cell("tiny", "again", "simclr_b", "none", 0).curve.write_text("epoch,loss\n1,nan\n")
    floor_path("tiny", "simclr_b", 1, "tiny").write_text("{")
    (poison_path("tiny", "again") / "preview.safetensors").write_bytes(b"damaged")
    other = Cell("tiny", "noise", "simclr_b", "none", 0).probe("tiny")
    other.write_text(other.read_text().replace('"last"', '"best"'))
    folder = report("tiny")
    stages = (
        "probe@noise-simclr_a-none-0-tiny",
        "probe@noise-simclr_a-none-1-tiny",
        "probe@again-simclr_b-none-1-tiny",
        "pretrain@again-simclr_b-none-0",
        "floor@simclr_b-1-tiny",
        "generate@again",
    )
    page = page_of(folder)
    for stage in stages:
        assert f"dvc repro {stage}" in page.text
    assert "6 results are missing" in page.text
    assert "The accuracies were measured in 2 ways" in page.text
    note = "missing: run `dvc repro probe@noise-simclr_a-none-0-tiny` and 1 more"
    assert note in page.text
    assert note in (folder / "summary.md").read_text()
    assert "1 of 2" in page.text
    listed = json.loads((folder / "study.json").read_text())["missing"]
    assert {gap["stage"] for gap in listed} == set(stages)
    rows = {row["cell"]: row for row in rows_of(folder)}
    assert len(rows) == 16
    assert rows["noise-simclr_a-none-0"]["linear"] == ""
    assert rows["clean-simclr_b-none-1"]["linear_gain_removed"] == ""
    printed = capsys.readouterr().out
    assert "dvc repro generate@again" in printed
    assert "and 1 more; the page lists them all" in printed


def test_strict_fails_only_where_something_is_missing_and_only_once_all_is_written(study: Path) -> None:
    command = ["report", "--study", "tiny", "--strict"]
    assert CliRunner().invoke(app, command).exit_code == 0
    Cell("tiny", "noise", "simclr_a", "none", 0).probe("tiny").unlink()
    shutil.rmtree(study / "reports")
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 1
    assert "missing: run `dvc repro probe@noise-simclr_a-none-0-tiny`" in done.stdout
    assert isinstance(done.exception, EngineError)  # main shows it as a message
    assert str(done.exception) == "tiny lacks 1 result; `dvc repro` makes the rest"
    assert {file.name for file in (study / "reports" / "tiny").iterdir()} == FILES
    assert CliRunner().invoke(app, command[:-1]).exit_code == 0


def test_a_study_of_which_nothing_is_there_is_reported_too(study: Path) -> None:
    for folder in ("probe", "floor", "curve", "poison"):
        (study / "artifacts" / "tiny" / folder).rename(study / f"gone-{folder}")
    page = page_of(report("tiny"))
    assert "0 of 12 cells measured" in page.text
    assert "No accuracy yet" in page.text


def test_one_seed_is_a_plain_value_and_without_a_clean_poison_nothing_is_compared(study: Path) -> None:
    spec = study / "specs" / "studies" / "tiny.yaml"
    text = spec.read_text().replace("seeds: [0, 1]", "seeds: [0]").replace("[simclr_a, simclr_b]", "[simclr_a]")
    spec.write_text(text.replace("    clean: {attack: clean, init: zero}\n", ""))
    folder = report("tiny")
    page = page_of(folder)
    assert "±" not in page.text
    assert "one seed" in page.text
    assert "Every seed by itself" not in page.text
    assert all(row["linear_drop"] == row["knn_gain_removed"] == "" for row in rows_of(folder))
    assert "there is no clean result to compare it with" in page.text


def test_a_learners_own_classifier_has_columns_in_every_table(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed in (0, 1):
        for file, head in (
            (Cell("tiny", "clean", "simclr_b", "none", seed).probe("tiny"), 90.0 + seed),
            (Cell("tiny", "noise", "simclr_b", "none", seed).probe("tiny"), 20.0),
            (floor_path("tiny", "simclr_b", seed, "tiny"), 10.0),
        ):
            file.write_text(json.dumps({**json.loads(file.read_text()), "head": head}))
    folder = report("tiny")
    header = (folder / "accuracy.csv").read_text().splitlines()[0]
    assert header == f"{COLUMNS_OF_ACCURACY},head,floor_head,head_drop,head_gain_removed,command"
    row = next(row for row in rows_of(folder) if row["cell"] == "noise-simclr_b-none-1")
    assert (row["head"], row["floor_head"], row["head_drop"]) == ("20.0", "10.0", "71.0")
    page = page_of(folder)
    assert "own classifier" in page.text
    assert "own classifier (%)" in (folder / "summary.md").read_text()
    for text in (page.text, (folder / "summary.md").read_text(), capsys.readouterr().out):
        assert "70.5 ± 0.7" in text  # the drop
    assert "head_gain_removed_sd" in (folder / "summary.csv").read_text()
    assert "own classifier" not in (folder / "summary.csv").read_text()


def test_boards_are_on_the_page_in_markdown_and_in_csv(finished: Report) -> None:
    with (finished.folder / "worst_case.csv").open(newline="") as stream:
        cases = {row["poison"]: row for row in csv.DictReader(stream)}
    assert cases["noise"]["victim"] == cases["noise"]["clean_victim"] == "simclr_b"
    assert float(cases["noise"]["accuracy"]) == pytest.approx(66.623)
    assert (cases["noise"]["harm_rank"], cases["again"]["harm_rank"], cases["clean"]["harm_rank"]) == ("1", "2", "")
    assert (cases["noise"]["image_views"], cases["again"]["image_views"]) == ("12000", "24000")
    with (finished.folder / "transfer.csv").open(newline="") as stream:
        cells_of = {(row["poison"], row["victim"]): row for row in csv.DictReader(stream)}
    assert len(cells_of) == 4 * 2
    assert float(cells_of["(untrained)", "simclr_a"]["accuracy"]) == pytest.approx(31.0)
    markdown = (finished.folder / "summary.md").read_text()
    for text in (finished.page.text, markdown, finished.printed):
        assert "Worst case over learners" in text
        assert "Transfer" in text
    assert "| noise | random_noise | 66.6 ± 0.7 | simclr_b | 62.6 ± 0.7 | simclr_b | 2 | 12,000 | 1 | 1 |" in markdown
    assert "noise random_noise 66.6 ± 0.7 simclr_b 62.6 ± 0.7 simclr_b 2 12,000 1 1" in finished.page.text
    assert "clean best" in finished.page.text
    latex = (finished.folder / "worst_case.tex").read_text().splitlines()
    assert (
        r"  noise & random\_noise & 66.6 \(\pm\) 0.7 & simclr\_b & 62.6 \(\pm\) 0.7 & simclr\_b & 2 & 12,000 & 1 & 1 \\"
        in latex
    )
    assert set(json.loads((finished.folder / "study.json").read_text())["boards"]) == {
        *("worst_case", "transfer", "cost", "time", "perturbations")
    }


@pytest.fixture
def guarded(study: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same study under three defenses of which one inverts the images, with the time of every epoch."""
    built = iter([ImageDefense(lambda images, _: 1 - images, "batch"), Defense()])  # of a report; none is not built
    monkeypatch.setattr("engine.plugins.build", lambda *_: next(built))
    for name in ("invert", "same"):
        (study / "specs" / "defenses" / f"{name}.yaml").write_text("kind: none")
    spec = study / "specs" / "studies" / "tiny.yaml"
    spec.write_text(spec.read_text().replace("defenses: [none]", "defenses: [none, invert, same]"))
    for run in cells(load_study("tiny")):
        gain = {"none": 0.0, "invert": 10.25, "same": 0.0}[run.defense] - 20 * (run.poison == "noise")
        write_probe(run.probe("tiny"), 60 + gain + run.seed, 50)
        run.curve.write_text("epoch,loss,lr\n1,4.5,0.1\n2,3.25,0.1\n")
        write_cost(run, {"none": 8.0, "invert": 20.0, "same": 10.0}[run.defense])
    return study


def write_cost(run: Cell, seconds: float) -> None:
    run.cost.parent.mkdir(parents=True, exist_ok=True)
    run.cost.write_text(
        json.dumps({"seconds": 3 * seconds, "peak_memory_bytes": 5, "seconds_per_epoch": seconds, "device": "cpu"})
    )


def test_defenses_have_tables_and_a_picture(guarded: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = report("tiny")
    boards = {"defenses-simclr_a", "defenses-simclr_b"}
    assert {file.name for file in folder.iterdir()} == {
        *FILES,
        *(f"{name}.{kind}" for name in boards for kind in ("csv", "tex")),
        "defenses.png",
        "defenses.svg",
    }
    with (folder / "defenses-simclr_a.csv").open(newline="") as stream:
        rows = {(row["defense"], row["poison"], row["measure"]): row for row in csv.DictReader(stream)}
    assert len(rows) == 3 * 3 * 2
    row = rows["invert", "noise", "linear"]
    assert [float(row[name]) for name in ("recovered", "clean_cost", "time_ratio")] == [10.25, -10.25, 2.5]
    content = json.loads((folder / "study.json").read_text())
    assert boards < set(content["boards"])
    line = "invert 70.8 ± 0.7 \N{MINUS SIGN}10.2 ± 0.0 50.8 ± 0.7 10.2 ± 0.0 70.8 ± 0.7 10.2 ± 0.0 2.50"
    page, markdown = page_of(folder), (folder / "summary.md").read_text()
    assert line in page.text
    assert f"| {line.replace(' ', ' | ').replace(' | ± | ', ' ± ')} |" in markdown
    for text in (page.text, markdown, capsys.readouterr().out):
        assert "Defenses of simclr_a" in text
        assert "Defenses of simclr_b" in text
    assert "What the defenses look like" in page.text
    assert "before the objective: same." in page.text
    assert {"defenses.png", "defenses.svg", "defenses-simclr_a.csv", "defenses-simclr_a.tex"} <= {
        value for _, value in page.values("href")
    }
    strips = [value for _, value in page.values("alt") if value.startswith("noise under ")]
    assert strips == ["noise under none: cat, dog", "noise under invert: cat, dog"]


def test_a_time_that_is_not_there_is_unknown_and_one_that_is_damaged_is_named(guarded: Path) -> None:
    for run in cells(load_study("tiny")):
        if (run.victim, run.defense) == ("simclr_a", "invert"):
            run.cost.unlink()
    damaged = Cell("tiny", "noise", "simclr_b", "same", 1)
    write_cost(damaged, -1.0)
    content = json.loads((report("tiny") / "study.json").read_text())
    assert [gap["stage"] for gap in content["missing"]] == [f"pretrain@{damaged.key}"]
    assert "holds no training cost: seconds" in content["missing"][0]["reason"]
    markdown = (guarded / "reports" / "tiny" / "summary.md").read_text()
    lines = [line for line in markdown.splitlines() if line.startswith(("| invert ", "| same "))]
    assert [line.split(" | ")[-1] for line in lines] == ["unknown |", "1.25 |", "2.50 |", "1.25 (n = 5) |"]


def test_a_report_that_fails_leaves_the_last_one(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    last = study / "reports" / "tiny" / "index.html"
    last.parent.mkdir(parents=True)
    last.write_text("the last one")

    def fail(*_: object) -> str:
        raise RuntimeError("no page today")

    # Figures take their time, and are not what fails here.
    monkeypatch.setattr("engine.stages.report._draw", lambda *_: {})
    monkeypatch.setattr("engine.reporting.records.write_records", fail)
    with pytest.raises(RuntimeError, match="no page today"):
        report("tiny")
    assert last.read_text() == "the last one"


def test_a_reduced_precision_is_said_on_the_page(study: Path, finished: Report) -> None:
    assert "trained in" not in finished.page.text
    for run in cells(load_study("tiny")):
        content = json.loads(run.probe("tiny").read_text())
        run.probe("tiny").write_text(json.dumps({**content, "precision": "bf16"}))
    folder = report("tiny")
    assert "trained in bf16" in page_of(folder).text
