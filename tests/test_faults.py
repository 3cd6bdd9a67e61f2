"""Every fault of docs/failures.md, injected into real commands: what they say, what they leave, how they go on."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydantic import TypeAdapter, ValidationError
from safetensors.torch import load_file

from engine import plugins
from engine.artifacts.files import NotWritten, writing
from engine.images import class_folders, decode, list_files
from engine.journal import Journal
from engine.protocols import Job
from engine.stages import mishaps
from engine.stages.mishaps import OutOfMemory
from engine.study import StudySpec
from engine.training.bilevel import SearchDiverged
from tests import injections
from tests.cases import ATTACKS, poisoned
from tests.faults import BEGIN, END, PAGE, table_of_kills
from tests.injections import INJECTIONS, Outcome, Skipped
from tests.kills import STAGES, kill_stages
from tests.soak import soak


@pytest.mark.slow
@pytest.mark.parametrize("injection", INJECTIONS, ids=lambda injection: injection.__name__)
def test_a_fault_is_told(injection: Callable[[Path], Outcome], tmp_path: Path) -> None:
    try:
        outcome = injection(tmp_path)
    except Skipped as reason:
        pytest.skip(str(reason))
    status, words = INJECTIONS[injection]
    assert outcome.status == status, outcome.said
    for word in words:
        assert word in outcome.said
    assert "Traceback" not in outcome.said


@pytest.mark.slow
def test_what_diverged_is_kept_to_be_inspected_and_no_encoder_is_written(tmp_path: Path) -> None:
    injections.loss_of_a_victim_that_is_no_number(tmp_path)
    (state,) = (tmp_path / ".work/diverged").glob("*.safetensors")
    tensors, about = load_file(state), json.loads(state.with_suffix(".json").read_text())
    assert (about["epoch"], about["step"], about["loss"], about["seed"]) == (1, 3, "nan", 0)
    assert tensors["rows"].shape == (32,)
    assert any(name.startswith("network.encoder.") for name in tensors)
    assert not (tmp_path / "artifacts/small/encoder").exists()


@pytest.mark.slow
def test_stages_killed_at_random_points_end_as_if_they_had_not_been(tmp_path: Path) -> None:
    trials = list(kill_stages(tmp_path, points=3, seed=1, at_once=1, most=1))
    assert {trial.stage for trial in trials} == set(STAGES)
    assert sum(len(trial.kills) for trial in trials) >= 3
    assert [trial.wrong for trial in trials if trial.wrong] == []
    assert any("wrong results: 0" in line for line in table_of_kills(trials))


@pytest.mark.slow
def test_cells_under_random_kills_all_end_right(tmp_path: Path) -> None:
    soaked = soak(tmp_path, cells=6, jobs=2, kills=2, seed=0)
    assert soaked.cells == 7
    assert soaked.kills.total() >= 2
    assert soaked.is_right, str(soaked)


@pytest.mark.parametrize("name", ["cp_s", "ue_c", "tue"])
def test_a_search_that_diverges_says_where_and_hands_over_its_noise(name: str) -> None:
    surrogate = {**ATTACKS[name]["surrogate"], "lr": 1e30}
    with pytest.raises(SearchDiverged, match=r"the loss of the (surrogate|noise) is (nan|inf), round 1, ") as stopped:
        poisoned({**ATTACKS[name], "surrogate": surrogate}, Journal())
    assert stopped.value.tensors["noise"].isfinite().all()
    assert any(name.startswith("network.") for name in stopped.value.tensors)
    assert stopped.value.about["place"].startswith("round 1, ")


def failing(error: Exception, **about: object) -> Job:
    def work(machine: object) -> None:
        raise error

    return Job("pretrain", "key", "small", (), (), "fp32", about, work)


class OnCpu:
    device = torch.device("cpu")


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), MemoryError()]
)
def test_every_kind_of_missing_memory_names_the_field_to_lower(error: Exception) -> None:
    with pytest.raises(OutOfMemory, match=r"lower batch_size in specs/victims/v\.yaml, or the layout's resident_gb"):
        mishaps.do(failing(error, victim={"name": "v"}), OnCpu())  # type: ignore[arg-type]


def test_another_error_is_left_as_it_is() -> None:
    with pytest.raises(RuntimeError, match=r"^shapes differ$"):
        mishaps.do(failing(RuntimeError("shapes differ")), OnCpu())  # type: ignore[arg-type]


def test_an_attack_without_a_surrogate_has_no_batch_to_lower() -> None:
    job = Job("generate", "k", "d", (), (), "fp32", {"attack": {"name": "a", "spec": {}}}, failing(MemoryError()).work)
    with pytest.raises(OutOfMemory, match=r"; use a layout with more memory$"):
        mishaps.do(job, OnCpu())  # type: ignore[arg-type]


def test_only_a_refused_write_is_told_as_one() -> None:
    told = r"x/y cannot be written: No space left on device \(/a/b\); make room there"
    with pytest.raises(NotWritten, match=told), writing(Path("x/y")):
        raise OSError(28, "No space left on device", "/a/b")
    with pytest.raises(FileNotFoundError), writing(Path("x/y")):
        raise FileNotFoundError(2, "No such file or directory")


STUDY = {
    "name": "s",
    "dataset": "d",
    "poisons": {"p": {"attack": "a", "init": "zero"}},
    "victims": ["v"],
    "defenses": ["none"],
    "downstream": ["d"],
    "seeds": [0],
    "protocol": "k",
}


def with_name(place: str, text: str) -> dict[str, object]:
    """Return a study that has a text as one of its names."""
    changes: dict[str, object] = {
        "poison": {"poisons": {text: STUDY["poisons"]["p"]}},  # type: ignore[index]
        "attack": {"poisons": {"p": {"attack": text, "init": "zero"}}},
        "init": {"poisons": {"p": {"attack": "a", "init": text}}},
    }
    listed: object = [text] if place in ("victims", "defenses", "downstream") else text
    return {**STUDY, **(changes.get(place) or {place: listed})}  # type: ignore[dict-item]


PLACES = ("name", "protocol", "dataset", "victims", "defenses", "downstream", "poison", "attack", "init")
HOSTILE = st.sampled_from(["a; rm -rf /", "$(id)", "`id`", "a\n", "../a", "a b", "--help", "a'b", 'a"b', "", "A", "é"])


@settings(deadline=None, max_examples=300)
@given(
    st.sampled_from(PLACES), st.one_of(st.text(max_size=8), HOSTILE, st.from_regex("[a-z0-9_]{1,5}", fullmatch=True))
)
def test_a_name_is_refused_or_holds_nothing_that_a_shell_reads(place: str, text: str) -> None:
    study = json.dumps(with_name(place, text))
    allowed = r"[a-z0-9_]+(/[a-z0-9_]+)?" if place == "name" else r"[a-z0-9_]+"  # a study may lie in a folder
    if re.fullmatch(allowed, text):
        assert TypeAdapter(StudySpec).validate_json(study)
        return
    with pytest.raises(ValidationError, match="pattern"):
        TypeAdapter(StudySpec).validate_json(study)


@pytest.mark.parametrize("path", ["..", "../x", "a/../../x", "./.."])
def test_data_lies_below_the_data_root_or_at_a_declared_absolute_path(path: str) -> None:
    spec = TypeAdapter(plugins.spec_of("datasets"))
    values = {"kind": "imagefolder", "image_size": 8}
    with pytest.raises(ValidationError, match="must not leave the data root"):
        spec.validate_python({**values, "path": path})
    assert spec.validate_python({**values, "path": "/data/photographs"}).path == "/data/photographs"


def test_a_link_below_the_data_root_is_followed(tmp_path: Path) -> None:
    elsewhere, root = tmp_path / "elsewhere", tmp_path / "data/photographs"
    elsewhere.mkdir()
    root.mkdir(parents=True)
    Image.new("RGB", (8, 8), "red").save(elsewhere / "0.png")
    (root / "folder").symlink_to(elsewhere)
    (root / "files").mkdir()
    (root / "files/0.png").symlink_to(elsewhere / "0.png")
    found = list_files(root, class_folders(root))
    assert found.class_names == ("files", "folder")
    assert decode(found.files, 8)[:, :, 0, 0].tolist() == [[255, 0, 0], [255, 0, 0]]


def test_the_page_has_a_place_for_the_matrix_and_names_every_test_that_holds_it() -> None:
    text = PAGE.read_text()
    assert text.index(BEGIN) < text.index(END)
    named = [line.split("`")[1] for line in text.splitlines() if line.startswith("Held by: `")]
    assert len(named) >= 9
    for name in named:
        file, _, test = name.partition("::")
        assert f"def {test}(" in (PAGE.parents[1] / file).read_text(), name
