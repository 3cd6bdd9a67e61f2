"""Headers: what is written between the marks, and that nothing else of a file changes."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from engine.cli import app
from engine.errors import EngineError
from engine.reporting.expected import as_table, expected_lines
from engine.stages.headers import write_headers
from engine.study import StudySpec, load_study

OWN = "# What I think of it.\n# Run: it\n"
STUDY = """study:
  name: tiny
  protocol: banked
  dataset: tiny
  poisons:
    clean: {attack: clean, init: zero}
    cp: {attack: tiny_cp, init: uniform}
  victims: [tiny]
  defenses: [none]
  downstream: [tiny]
  seeds: [0, 1]
"""
BODY = "  kind: simclr\n  backbone: {kind: resnet18, width: 4, stages: [1]}\n  views: {size: 8}\n  batch_size: 32\n"
FILES = {
    "datasets/tiny": "kind: digits\nimage_size: 8\ntrain_per_class: 12\ntest_per_class: 5\n",
    "victims/tiny": BODY.replace("  ", "") + "epochs: 3\nwarmup_epochs: 1\n",
    "attacks/tiny_cp": "kind: contrastive_poisoning\nepsilon: 8/255\ngranularity: sample\nrounds: 4\nmodel_steps: 3\n"
    f"noise_steps: 2\npgd_steps: 5\nsurrogate:\n{BODY}",
    "studies/tiny": OWN + STUDY,
}


@pytest.fixture
def tiny(project: Path) -> Path:
    """The file of a small study."""
    for name, text in FILES.items():
        (project / f"specs/{name}.yaml").write_text(text)
    return project / "specs/studies/tiny.yaml"


def test_a_header_is_written_before_the_first_key_and_then_in_its_place(tiny: Path) -> None:
    done = CliRunner().invoke(app, ["plan", "tiny", "--header"])
    assert done.exit_code == 0, done.output
    assert done.output.splitlines()[-1] == "specs/studies/tiny.yaml"
    text = tiny.read_text()
    assert text.startswith(OWN + "# Written by `python -m engine plan tiny --header`:\n")
    assert text.endswith("# Here it ends.\n" + STUDY)
    assert "# Expected accuracies: unknown, all of them.\n" in text
    # Four rounds of three model steps and ten noise steps; two seeds and two poisons of three epochs of three batches;
    # six probes of eleven copies of the training images, and the test images twice.
    views = (
        f"{4 * 13 * 32 * 2:,} to make the poisons, {4 * 3 * 96 * 2:,} to train the victims, {6 * (11 * 120 + 100):,}"
    )
    assert f"# Predicted image-views: {views} encodings to judge" in text
    assert "15 TFLOP/s; on 4 GPUs" in text.replace("\n#   ", " ")
    assert "# Images taken for training + tests: tiny 120 + 50.\n" in text
    write_headers("tiny")
    assert tiny.read_text() == text
    write_headers("tiny", tflops=7.5, layout_name="local")
    assert tiny.read_text() != text
    assert "7.5 TFLOP/s; on 1 GPUs" in tiny.read_text().replace("\n#   ", " ")


def test_what_a_person_writes_around_the_marks_stays(tiny: Path) -> None:
    write_headers("tiny")
    text = tiny.read_text()
    tiny.write_text(
        text.replace("Predicted", "Guessed").replace(OWN, "# Other words.\n").replace("seeds: [0", "seeds: [2")
    )
    write_headers("tiny")
    changed = text.replace(OWN, "# Other words.\n").replace("seeds: [0", "seeds: [2")
    assert tiny.read_text() == changed


def test_a_mark_that_is_missing_is_named(tiny: Path) -> None:
    write_headers("tiny")
    text = tiny.read_text()
    tiny.write_text(text.replace("# Here it ends.\n", ""))
    with pytest.raises(EngineError, match=r"specs/studies/tiny\.yaml must have the lines .*Here it ends"):
        write_headers("tiny")
    tiny.write_text('{"study": ' + str({**load_study("tiny").model_dump(mode="json")}).replace("'", '"') + "}")
    with pytest.raises(EngineError, match="has no line 'study:' of its own"):
        write_headers("tiny")


def test_nothing_is_foretold_of_images_that_nobody_has_counted(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENGINE_DATA", "nowhere")
    (tiny.parents[1] / "datasets/tiny.yaml").write_text("kind: imagefolder\npath: photos\nimage_size: 8\n")
    with pytest.raises(EngineError, match="how many images tiny have is not known, and so not what tiny would take"):
        write_headers("tiny")
    assert tiny.read_text() == OWN + STUDY


def test_without_studies_of_the_paper_one_must_be_named(project: Path) -> None:
    shutil.rmtree(project / "specs/studies/paper")
    with pytest.raises(EngineError, match="has no studies whose headers"):
        write_headers()


def study_of(**changes: object) -> StudySpec:
    return load_study("paper/table8").model_copy(update=changes)


def test_published_figures_stand_in_their_cells_with_their_sources(project: Path) -> None:
    table = as_table(study := study_of(), expected_lines(study))
    rows = {line.rpartition("  ")[0].strip(): line.rpartition("  ")[2] for line in table if line[1:2] != ":"}
    assert len(rows) == 1 + 2 * 8 + 2
    assert rows["cp_s_simclr, none"] == "44.9 a"
    assert rows["cp_c_simclr, none"] == "68.0 b"
    assert rows["cp_s_simclr, cutout"] == "unknown"
    assert rows["average of cp_s_simclr and cp_c_simclr, matrix_completion"] == "86.9 d"
    assert "a: Tables 1, 3 and 8" in "\n".join(table)


def test_figures_are_of_the_published_data_set_victim_and_probe_alone(project: Path) -> None:
    known = {}
    for name, changes in {
        "as published": {"defenses": ("none",)},
        "another data set": {"defenses": ("none",), "dataset": "cifar100", "downstream": ("cifar100",)},
        "another probe": {"defenses": ("none",), "downstream": ("stl10_32",)},
        "another backbone": {"defenses": ("none",), "victims": ("simclr_resnet34",)},
        "rough": {"poisons": load_study("paper/table4").poisons, "defenses": ("none",), "victims": ("supervised",)},
    }.items():
        lines = expected_lines(study_of(**changes))
        known[name] = [figure.accuracy for line in lines for figure in line.figures if figure]
        assert len(lines) == len(study_of(**changes).poisons)
    assert known == {
        "as published": [44.9, 68.0],
        "another data set": [],
        "another probe": [],
        "another backbone": [],
        "rough": [94.6, 6.3, 10.0, 10.0, 10.0],
    }
