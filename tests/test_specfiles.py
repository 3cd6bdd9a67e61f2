"""Every fault of a spec is found, and said where it stands."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from engine.cli import app
from engine.spec import Spec, Unit
from engine.specfiles import GROUPS, SpecFault, file_of, load, names, parse, read_document, resolved
from engine.stages.validate import check


def faults_of(file: Path, text: str) -> list[str]:
    file.write_text(text)
    _, faults = check()
    return [str(fault) for fault in faults if fault.file.name == file.name]


def test_every_shipped_spec_is_valid(project: Path) -> None:
    checked, faults = check()
    assert faults == []
    assert checked.files >= 20
    assert checked.cells >= 8


PLANTED = {
    # file: (text, [(line, column, what the message must say), ...])
    "specs/attacks/a.yaml": (
        "kind: contrastive_poisonin\n",
        [(1, 1, ("kind", "contrastive_poisonin", "did you mean 'contrastive_poisoning'"))],
    ),
    "specs/attacks/b.yaml": (
        "kind: random_noise\nepsilon: 8/0\npoison_fraction: 1.5\nsede: 3\n",
        [
            (2, 1, ("epsilon", "8/0", "fraction")),
            (3, 1, ("poison_fraction", "1.5", "less than or equal to 1")),
            (4, 1, ("sede", "did you mean 'seed'", "allowed:")),
        ],
    ),
    "specs/victims/c.yaml": (
        "kind: simclr\nbackbone:\n  kind: resnet18\n  widht: 16\nviews: {size: 4}\nbatch_size: true\n",
        [
            (4, 3, ("backbone.widht", "did you mean 'width'")),
            (6, 1, ("batch_size", "true", "integer")),
        ],
    ),
    "specs/victims/d.yaml": (
        "kind: simclr\nbackbone: {kind: resnet18}\nviews: {size: 4}\n",
        [(3, 9, ("views.size", "4", "8"))],
    ),
    "specs/layouts/e.yaml": ("kind: local\ndevice: cpu\ndevice: cuda\n", [(3, 1, ("device", "twice", "line 2"))]),
    "specs/attacks/h.yaml": (
        "kind: aap\nepsilon: 8/255\nsurrogate:\n  kind: simclr\n  backbone: {kind: resnet18}\n  views: {size: 32}\n",
        [(4, 3, ("surrogate.kind", "simclr", "allowed: supervised"))],
    ),
    "specs/defenses/f.yaml": ("kind: [none\n", [(2, 1, ("not YAML",))]),
    "specs/studies/g.yaml": (
        "study:\n  name: g\n  dataset: digitz\n  poisons:\n    p: {attack: clean, init: q}\n"
        "  victims: [simclr_mini, simclr_mini]\n  defenses: [none]\n  downstream: [digits]\n  seeds: [0]\n"
        "  protocol: bankd\n",
        [
            (3, 3, ("study.dataset", "did you mean 'digits'")),
            (10, 3, ("study.protocol", "did you mean 'banked'")),
            (5, 24, ("study.poisons.p.init", "'q'", "zero")),
            (6, 26, ("study.victims.1", "listed twice")),
        ],
    ),
}


def test_all_faults_of_all_files_are_reported_in_one_run(project: Path) -> None:
    for file, (text, _) in PLANTED.items():
        (project / file).write_text(text)
    result = CliRunner().invoke(app, ["validate"])
    assert isinstance(result.exception, SpecFault)
    lines = str(result.exception).splitlines()[1:]
    expected = [(file, *where) for file, (_, places) in PLANTED.items() for where in places]
    assert len(expected) >= 10
    for file, line, column, words in expected:
        found = [text for text in lines if text.startswith(f"{file}:{line}:{column}:")]
        assert any(all(word in text for word in words) for text in found), (file, line, words, lines)
    assert len(lines) == len(expected), lines


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "expected keys and values"),
        ("- 1\n", "expected keys and values"),
        ("kind: local\nthreads: 0\n", "greater than 0"),
        ("kind: local\nthreads: .nan\n", "threads"),
        ("kind: local\ndevice: tpu\n", "device"),
        ("kind: local\nthreads: 2001-01-01\n", "threads"),
        ("threads: 2\n", "kind"),
        ("kind: local\n1: 2\n", "1"),
    ],
)
def test_malformed_files_are_explained(project: Path, text: str, words: str) -> None:
    found = faults_of(project / "specs/layouts/broken.yaml", text)
    assert len(found) == 1, found
    assert words in found[0]


def test_not_utf8_is_a_fault(project: Path) -> None:
    file = project / "specs/layouts/latin.yaml"
    file.write_bytes("kind: local # é".encode("latin-1"))
    _, faults = check()
    assert ["UTF-8" in str(fault) for fault in faults] == [True]


def test_an_unknown_name_suggests_the_closest(project: Path) -> None:
    with pytest.raises(SpecFault, match="did you mean 'simclr_mini'"):
        load("victims", "simclr_mni")


class Holder(Spec):
    """A spec with one number."""

    share: Unit


@given(st.floats(allow_nan=False, allow_infinity=False).filter(lambda value: not 0 <= value <= 1))
def test_no_number_outside_its_range_is_accepted(value: float) -> None:
    document = read_document(Path("nowhere.yaml"))
    document.faults.clear()
    document.content = {"share": value}
    assert parse(document, Holder) is None
    assert len(document.faults) == 1


@pytest.mark.parametrize("spelled", ["8/255", " 8 / 255 ", "0.03137254901960784"])
def test_epsilon_may_be_a_fraction(project: Path, spelled: str) -> None:
    value = spelled if "/" not in spelled else f"'{spelled}'"
    (project / "specs/attacks/x.yaml").write_text(f"kind: random_noise\nepsilon: {value}\n")
    assert load("attacks", "x").epsilon == 8 / 255


def test_specs_cannot_be_changed(project: Path) -> None:
    spec = load("layouts", "local")
    with pytest.raises(ValueError, match="frozen"):
        spec.device = "cuda"


def test_every_spec_survives_its_resolved_form(project: Path) -> None:
    seen = 0
    for group in GROUPS:
        for name in names(group):
            spec = load(group, name)
            document = read_document(file_of(group, name))
            document.content = resolved(spec)
            assert parse(document, type(spec)) == spec, document.faults
            seen += 1
    assert seen >= 15


def test_every_shipped_spec_points_its_editor_to_its_schema() -> None:
    root = Path(__file__).parents[1]
    files = sorted((root / "specs").rglob("*.yaml"))
    assert len(files) >= 20
    for file in files:
        group, *below = file.relative_to(root / "specs").parts
        schema = f"{'../' * (1 + len(below))}schemas/{group}.json"
        assert file.read_text().splitlines()[0] == f"# yaml-language-server: $schema={schema}", file
        assert (file.parent / schema).resolve().is_file()
