"""The studies of the paper: all are there, right, planned without their images, and their headers say what is so."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from engine.params import load_params
from engine.specfiles import load, names
from engine.stages.headers import LAYOUT, PAGE, TFLOPS, Foretold, command, foretell, header_text, page_text
from engine.stages.plan import Plan, Step
from engine.stages.pricing import Pricing
from engine.stages.validate import check
from engine.study import load_study, study_file

PROJECT = Path(__file__).parents[1]
STUDIES = sorted(path.stem for path in (PROJECT / "specs/studies/paper").glob("*.yaml"))
STAGES = {"generate": "generate", "pretrain": "pretrain", "floor": "probe", "probe": "probe"}


@pytest.fixture(autouse=True)
def _no_data_set_is_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read this project's studies where none of their data sets is."""
    monkeypatch.chdir(PROJECT)
    monkeypatch.setenv("ENGINE_DATA", str(tmp_path / "nowhere"))


def header_of(name: str) -> str:
    """The comments that open a study's file, as one line of words each."""
    text = (PROJECT / "specs/studies/paper" / f"{name}.yaml").read_text()
    return text.partition("\nstudy:\n")[0].replace("\n#   ", " ")


def line_of(header: str, label: str) -> str:
    found = re.search(rf"^# {label}: (.+)$", header, re.MULTILINE)
    assert found, f"no line {label!r}"
    return found[1]


def steps_of(name: str) -> list[Step]:
    return [*Plan(load_study(f"paper/{name}"), load_params()).steps()]


def test_all_are_there_and_right() -> None:
    assert len(STUDIES) == 16
    assert [f"paper/{name}" for name in STUDIES] == [name for name in names("studies") if name.startswith("paper/")]
    checked, faults = check()
    assert faults == []
    assert checked.cells >= 170


def test_every_table_and_figure_of_an_experiment_has_a_study() -> None:
    titles = " ".join(line_of(header_of(name), "Reproduces") for name in STUDIES)
    tables = set(re.findall(r"Table (\d)", titles))
    listed = re.findall(r"Figures? ([\d, and]+)", titles)
    figures = {number for numbers in listed for number in re.findall(r"\d", numbers)}
    assert tables == set("12345678")
    assert figures == set("13456789")  # the second is a diagram


@pytest.mark.parametrize("name", STUDIES)
def test_a_header_says_all_that_a_person_needs(name: str) -> None:
    header = header_of(name)
    assert name.partition("_")[0].replace("table", "Table ") in line_of(header, "Reproduces")
    assert line_of(header, "Run") == command(f"paper/{name}")
    assert "torchrun_4" in line_of(header, "Layout")
    assert "CIFAR-10" in (data := line_of(header, "Data")) or "ImageNet-100" in data
    assert len(line_of(header, "Settings")) > 100
    assert "unknown" in header.partition("# Expected accuracies")[2]
    study = load_study(f"paper/{name}")
    assert study.seeds == (0,)
    assert study.protocol == ("cp_iclr23_imagenet100" if study.dataset == "imagenet100" else "cp_iclr23")


@pytest.mark.parametrize("name", STUDIES)
def test_a_headers_image_views_are_those_of_the_plan(name: str) -> None:
    totals = dict.fromkeys(("generate", "pretrain", "probe"), 0)
    for step in steps_of(name):
        assert step.image_views is not None
        totals[STAGES[step.stage.partition("@")[0]]] += step.image_views
    written = line_of(header_of(name), "Predicted image-views")
    assert [int(number.replace(",", "")) for number in re.findall(r"[\d,]*\d", written)] == list(totals.values())


@pytest.fixture(scope="module")
def pricing() -> Pricing:
    """Prices that all studies share, each counted when the first one asks for it."""
    return Pricing(TFLOPS, 4, "fp32")


def foretold(name: str, pricing: Pricing) -> Foretold:
    return foretell(Plan(load_study(f"paper/{name}"), load_params()), pricing)


@pytest.mark.slow
@pytest.mark.parametrize("name", STUDIES)
def test_a_header_is_fresh(name: str, pricing: Pricing) -> None:
    assert load("layouts", LAYOUT).processes == 4
    assert load_params().precision == "fp32"
    text = study_file(f"paper/{name}").read_text()
    assert header_text(foretold(name, pricing)) == text, "run `python -m engine plan --header`"


@pytest.mark.slow
def test_the_page_is_fresh(pricing: Pricing) -> None:
    page = page_text([foretold(name, pricing) for name in STUDIES])
    assert page == PAGE.read_text(), "run `python -m engine plan --header`"


def test_a_victims_image_views_are_the_papers() -> None:
    # 1,000 epochs of 97 batches of 512 images in two views; 200 epochs of 989 batches of 128.
    views = {
        name: {step.stage: step.image_views for step in steps_of(name)} for name in ("table3", "table2_imagenet100")
    }
    assert views["table3"]["pretrain@cp_s_byol-byol-none-0"] == 1000 * 97 * 512 * 2
    assert views["table3"]["generate@cp_s_byol"] == 600 * (100 + 100 * 5) * 512 * 2
    assert views["table3"]["generate@cp_c_moco"] == 200 * (20 + 20) * 512 * 2
    assert views["table2_imagenet100"]["pretrain@clean-simclr_imagenet100-none-0"] == 200 * 989 * 128 * 2


def test_one_name_of_a_data_set_means_one_poison() -> None:
    """Studies share cells by their names: two meanings of one would overwrite each other."""
    meanings: dict[tuple[str, str], set[tuple[str, str]]] = {}
    for name in STUDIES:
        study = load_study(f"paper/{name}")
        for poison, entry in study.poisons.items():
            meanings.setdefault((study.dataset, poison), set()).add((entry.attack, entry.init))
    assert len(meanings) >= 40
    assert {key: found for key, found in meanings.items() if len(found) > 1} == {}


def test_the_page_lists_every_study_with_its_command() -> None:
    page = (PROJECT / PAGE).read_text()
    assert all(page.count(f"`{command(f'paper/{name}')}`") == 1 for name in STUDIES)
