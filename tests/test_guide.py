"""What the pages tell people to type is true: commands, YAML, Python, and an attack that is added as it is printed."""

from __future__ import annotations

import ast
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from ruamel.yaml import YAML
from typer.testing import CliRunner

import engine
from engine.artifacts import ReleasedPoison
from engine.claims.spec import ClaimsFile
from engine.cli import app
from engine.params import Params
from engine.reporting.tables import Row
from engine.specfiles import Document, model_of, names, parse
from engine.study import check_study
from tests.smallproject import environment

PROJECT = Path(__file__).parents[1]
GUIDE = sorted((PROJECT / "docs/guide").glob("*.md"))
PAGES = [*sorted(PROJECT.glob("docs/**/*.md")), PROJECT / "README.md", PROJECT / "CONTRIBUTING.md"]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
INLINE = re.compile(r"`((?:python -m )?engine [a-z][^`]*)`")
ATTACK_PAGE = (PROJECT / "docs/guide/attack.md").read_text()
VARIABLES = {"study": engine.Study, "poison": ReleasedPoison, "row": Row}
"""What pages call things of the Python interface."""
PROGRAM: Any = typer.main.get_command(app)


def blocks(language: str, pages: list[Path]) -> list[tuple[Path, str]]:
    found = [(page, match) for page in pages for match in FENCE.findall(page.read_text())]
    return [(page, text) for page, (spoken, text) in found if spoken == language]


def commands_of(words: list[str]) -> Iterator[list[str]]:
    """Yield the commands of a line that `&&` joins; what follows `||` or `>` is the shell's."""
    command: list[str] = []
    for word in words:
        if word in ("||", ">"):
            break
        if word == "&&":
            yield command
            command = []
        else:
            command.append(word)
    yield command


def lines_typed() -> Iterator[tuple[Path, list[str]]]:
    """Yield the words of every command on a page, without its comment."""
    for language in ("sh", "bash", ""):
        for page, text in blocks(language, PAGES):
            for line in text.splitlines():
                if re.match(r"(python|dvc|make|pytest) ", line):
                    yield from ((page, words) for words in commands_of(shlex.split(line, comments=True)))


ENGINE = [(page, words[3:]) for page, words in lines_typed() if words[:3] == ["python", "-m", "engine"]]
OTHERS = [(page, words) for page, words in lines_typed() if words[0] != "python"]


def command_of(words: list[str]) -> Any:
    assert words[0] in PROGRAM.commands, f"there is no command {words[0]}"
    return PROGRAM.commands[words[0]]


def test_every_command_that_a_page_shows_is_accepted() -> None:
    assert len(ENGINE) > 40
    for page, words in ENGINE:
        if words == ["--help"]:
            continue
        try:
            command_of(words).make_context(words[0], words[1:])
        except Exception as error:
            raise AssertionError(f"{page.name}: {words}: {error}") from error


def test_every_study_that_a_command_names_is_declared() -> None:
    declared = {*names("studies"), *re.findall(r"^  name: (\w+)", "".join(text for _, text in YAMLS), re.MULTILINE)}
    named = {
        words[1] for _, words in ENGINE if words[0] in ("plan", "study") and words[1:] and not words[1].startswith("-")
    }
    assert {"quickstart", "patches", "mini/table1"} <= named
    assert named <= declared


def test_every_command_that_a_sentence_names_has_the_options_it_says() -> None:
    named = [(page, text) for page in PAGES for text in INLINE.findall(FENCE.sub("", page.read_text()))]
    assert len(named) > 25
    for page, text in named:
        words = text.removeprefix("python -m ").removeprefix("engine ").split()
        if words[0].isupper():
            continue
        known = {spelling for parameter in command_of(words).params for spelling in parameter.opts}
        asked = {word.split("=")[0] for word in words if word.startswith("--")}
        assert asked <= known | {"--help"}, f"{page.name}: {text}"


@pytest.mark.parametrize("name", sorted(PROGRAM.commands))
def test_every_command_explains_itself(name: str) -> None:
    shown = CliRunner().invoke(app, [name, "--help"])
    assert shown.exit_code == 0
    assert "Usage:" in shown.stdout


def test_other_programs_lines_are_such_that_they_exist() -> None:
    from dvc.cli.parser import get_main_parser

    targets = set(re.findall(r"^(\w+):", (PROJECT / "Makefile").read_text(), re.MULTILINE))
    seen = set()
    for page, words in OTHERS:
        seen.add(words[0])
        if words[0] == "dvc":
            get_main_parser().parse_args([word for word in words[1:] if word != "..."])
        elif words[0] == "make":
            assert set(words[1:]) <= targets, page
        elif words[0] == "pytest":
            paths = [word for word in words[1:] if "/" in word and word != "tests/attacks/test_patches.py"]
            assert all((PROJECT / path).exists() for path in paths), page
    assert {"dvc", "make", "pytest"} <= seen


YAMLS = [(page, text) for page, text in blocks("yaml", [*GUIDE, PROJECT / "README.md"])]


@pytest.mark.parametrize(("page", "text"), YAMLS, ids=[f"{page.stem}-{at}" for at, (page, _) in enumerate(YAMLS)])
def test_yaml_is_what_its_first_line_says(project: Path, page: Path, text: str) -> None:
    head = re.match(r"# yaml-language-server: \$schema=(?:\.\./\.\./)?schemas/(\w+)\.json\n", text)
    assert head, f"{page}: the block does not name its schema"
    if head[1] == "studies":
        content = YAML(typ="safe").load(text)
        name = content["study"]["name"]
        for attack in {entry["attack"] for entry in content["study"]["poisons"].values()} & printed_specs("attacks"):
            Path(f"specs/attacks/{attack}.yaml").write_text("kind: clean\n")
        for victim in set(content["study"]["victims"]) & printed_specs("victims"):
            shutil.copy("specs/victims/simclr_quick.yaml", f"specs/victims/{victim}.yaml")
        file = Path(f"specs/studies/{name}.yaml")
        file.write_text(text)
        study, document = check_study(file)
        assert document.faults == []
        assert study is not None
        return
    document = Document(page, YAML(typ="safe").load(text))
    model = {"params": Params, "claims": ClaimsFile}.get(head[1]) or model_of(head[1])
    if document.content.get("kind") != "patches":  # an attack that a page adds; its own test reads it
        assert parse(document, model) is not None, document.faults


def printed_specs(group: str) -> set[str]:
    """Return the names of specs that the page of the added attack writes itself."""
    return set(re.findall(rf"<!-- file: specs/{group}/(\w+)\.yaml -->", ATTACK_PAGE))


def test_there_is_yaml_of_every_group_that_people_write() -> None:
    named = {re.search(r"schemas/(\w+)\.json", text)[1] for _, text in YAMLS}  # type: ignore[index]
    assert {"studies", "attacks", "victims", "defenses", "layouts", "params"} <= named


def test_python_on_a_page_names_what_there_is() -> None:
    imported = set()
    for page, text in blocks("python", [page for page in PAGES if page.name != "attack.md"]):
        for node in ast.walk(ast.parse(text, str(page))):
            if isinstance(node, ast.ImportFrom) and node.module == "engine":
                imported |= {alias.name for alias in node.names}
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in VARIABLES:
                owner = VARIABLES[node.value.id]
                assert hasattr(owner, node.attr) or node.attr in owner.__annotations__, f"{page}: {ast.unparse(node)}"
    assert imported == set(engine.__all__)


def test_the_report_guide_explains_every_section_of_the_page() -> None:
    text = (PROJECT / "docs/guide/report.md").read_text()
    explained = re.findall(r"^\| ([A-Z][^|]*?) \|", text, re.MULTILINE)
    template = (PROJECT / "engine/reporting/templates/report.html.j2").read_text()
    titles = set(re.findall(r"<h2[^>]*>([^<{]+)</h2>", template)) | set(board_titles())
    assert len(titles) > 15
    assert sorted(titles - set(explained)) == []


def board_titles() -> Iterator[str]:
    for module in sorted((PROJECT / "engine/reporting").glob("*.py")):
        tree = ast.parse(module.read_text())
        constants = {
            node.targets[0].id: node.value.value
            for node in tree.body
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Board":
                title = node.args[1]
                if isinstance(title, ast.Name):
                    yield constants[title.id]
                elif isinstance(title, ast.Constant):
                    yield title.value
                else:
                    yield "Defenses"  # with victim and data set where there are several


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of what a contributor has, with what the page adds."""
    skip = shutil.ignore_patterns("__pycache__")
    for name in ("engine", "specs", "schemas", "tests", "docs"):
        shutil.copytree(PROJECT / name, tmp_path / name, ignore=skip)
    for name in ("pyproject.toml", "dvc.yaml", "params.yaml"):
        shutil.copy(PROJECT / name, tmp_path / name)
    for name, _, text in re.findall(r"<!-- file: (\S+) -->\n```(\w+)\n(.*?)```", ATTACK_PAGE, re.DOTALL):
        assert not (tmp_path / name).exists()
        (tmp_path / name).write_text(text)
    [(name, table, line)] = re.findall(r"<!-- into: (\S+) (\w+) -->\n```python\n(.*?)```", ATTACK_PAGE, re.DOTALL)
    head = re.compile(rf"^({table}: .* = {{\n)", re.MULTILINE)
    text, count = head.subn(lambda found: found[1] + line, (tmp_path / name).read_text())
    assert count == 1
    (tmp_path / name).write_text(text)
    return tmp_path


@pytest.mark.slow
def test_an_attack_is_added_as_the_page_says(checkout: Path) -> None:
    surroundings = environment() | {"PYTHONPATH": str(checkout)}

    def run(*command: str) -> str:
        done = subprocess.run(command, cwd=checkout, env=surroundings, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    [typed] = re.findall(r"<!-- run -->\n```sh\n(.*?)```", ATTACK_PAGE, re.DOTALL)
    printed = run("bash", "-euo", "pipefail", "-c", typed)
    assert "spec files and" in printed
    assert re.search(r"^9 passed", printed, re.MULTILINE), printed  # seven promises, two tests of its own
    assert "noise             ok" in printed
    assert "largest difference, of 255: 16" in printed
    assert "### Patches" in (checkout / "docs/catalog.md").read_text()
    run(sys.executable, "-m", "ruff", "check", "engine/attacks/patches.py", "tests/attacks/test_patches.py")
    run(sys.executable, "-m", "ruff", "format", "--check", "engine/attacks/patches.py", "tests/attacks/test_patches.py")
