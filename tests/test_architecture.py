"""The promises of the layout: budgets, names, cards, layers, no code of torch in specs."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from engine import plugins
from engine.catalog import card, write_page, write_schemas
from engine.cli import app

PROJECT = Path(__file__).parents[1]
MODULES = sorted((PROJECT / "engine").rglob("*.py"))
FUNCTIONS = [
    (module.relative_to(PROJECT), node)
    for module in MODULES
    for node in ast.walk(ast.parse(module.read_text()))
    if isinstance(node, ast.FunctionDef)
]
NAMES_THAT_SAY_NOTHING = {"utils", "util", "common", "helpers", "misc", "base", "manager"}
COMMANDS = {"download", "floor", "generate", "import_", "pretrain", "probe", "protect"}  # a parameter an option


def test_there_is_something_to_check() -> None:
    assert len(MODULES) >= 40
    assert len(FUNCTIONS) >= 150


def test_modules_are_short_and_named_for_what_they_hold() -> None:
    long = {str(module): count for module in MODULES if (count := len(module.read_text().splitlines())) > 250}
    assert long == {}
    assert [module for module in MODULES if module.stem in NAMES_THAT_SAY_NOTHING] == []


def test_functions_are_short_and_take_few_arguments() -> None:
    faults = []
    for module, function in FUNCTIONS:
        arguments = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
        count = len([argument for argument in arguments if argument.arg not in ("self", "cls", "ctx")])
        lines = (function.end_lineno or 0) - function.lineno + 1
        docstring = ast.get_docstring(function, clean=False)
        lines -= len(docstring.splitlines()) if docstring else 0
        if lines > 40 or (count > 6 and function.name not in COMMANDS):
            faults.append(f"{module}:{function.lineno} {function.name}: {lines} lines, {count} arguments")
    assert faults == []


def test_specs_are_read_without_torch() -> None:
    code = "import sys\nfrom engine.stages.validate import check\ncheck()\nsys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=PROJECT, check=False).returncode == 0


@pytest.mark.parametrize("group", plugins.PACKAGES)
def test_every_plugin_exports_spec_and_build_and_carries_a_card(group: str) -> None:
    assert plugins.kinds(group)
    for kind in plugins.kinds(group):
        module = plugins.module_of(group, kind)
        assert callable(module.build)
        assert module.Spec.model_fields["kind"].annotation.__args__ == (kind,)
        fields = card(group, kind)
        assert {"Summary", "Name"} <= set(fields), f"{group}/{kind} lacks a card"
        if group in ("attacks", "victims", "defenses"):
            assert "Threat model" in fields, f"{group}/{kind} does not state its threat model"
        if group in ("attacks", "victims", "backbones") and kind not in ("clean",):
            assert "Paper" in fields, f"{group}/{kind} does not name its paper"


def test_no_module_decides_on_a_kind_but_the_registry() -> None:
    offenders = [
        f"{module.relative_to(PROJECT)}:{node.lineno}"
        for module in MODULES
        if module.name != "plugins.py"
        for node in ast.walk(ast.parse(module.read_text()))
        if isinstance(node, ast.Compare)
        and isinstance(node.left, ast.Attribute)
        and node.left.attr == "kind"
        and any(isinstance(other, ast.Constant) for other in node.comparators)
    ]
    assert offenders == []


def test_the_committed_schemas_are_fresh(tmp_path: Path) -> None:
    written = write_schemas(tmp_path)
    assert len(written) == 10
    for file in written:
        assert file.read_text() == (PROJECT / "schemas" / file.name).read_text(), "run `python -m engine schema`"


def test_the_committed_page_of_cards_is_fresh_and_names_every_plugin(tmp_path: Path) -> None:
    page = write_page(tmp_path / "catalog.md").read_text()
    assert page == (PROJECT / "docs" / "catalog.md").read_text(), "run `python -m engine schema`"
    for group in plugins.PACKAGES:
        assert all(f"(`{kind}`)" in page or f"### {kind}\n" in page for kind in plugins.kinds(group))


def test_list_prints_every_group_with_kinds_and_cards() -> None:
    printed = json.loads(CliRunner().invoke(app, ["list", "--json"]).stdout)
    assert set(printed) == {*plugins.PACKAGES, "protocols", "studies"}
    for group in plugins.PACKAGES:
        assert set(printed[group]) == set(plugins.kinds(group))
    assert printed["attacks"]["contrastive_poisoning"]["Paper"].startswith("He, Zha & Katabi")
    assert "cp_sample" in printed["attacks"]["contrastive_poisoning"]["names"]


def test_the_readme_is_short_and_names_the_two_commands() -> None:
    text = (PROJECT / "README.md").read_text()
    assert len(text.splitlines()) <= 150
    assert "make demo" in text
    assert "make test" in text


def test_every_function_that_others_call_is_documented() -> None:
    missing = [
        f"{module}:{function.lineno} {function.name}"
        for module, function in FUNCTIONS
        if not function.name.startswith("_") and function.col_offset == 0 and not ast.get_docstring(function)
    ]
    assert missing == []
