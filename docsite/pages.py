"""Hooks of MkDocs: pages that are made of the code, so that a new plugin or command appears by itself.

Links that leave ``docs/`` work in the repository; here the files that they name are put into the site.
"""

from __future__ import annotations

import importlib
import pkgutil
import posixpath
import re
from pathlib import Path

import typer
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from typer.cli import get_docs_for_click

from engine import plugins
from engine.catalog import catalog

PROJECT = Path(__file__).parents[1]
ROOT_PAGES = {"contributing.md": "CONTRIBUTING.md", "changelog.md": "CHANGELOG.md"}
"""Pages of the site, and the files of the project's root that they are."""

MODULES = {
    "api": ("Notebooks and scripts", ("engine.api", "engine.artifacts.poison")),
    "protocols": ("Protocols", ("engine.protocols",)),
    "spec": (
        "Specs",
        ("engine.spec", "engine.victimspec", "engine.study", "engine.params", "engine.specfiles", "engine.plugins"),
    ),
    "losses": ("Losses", ("engine.losses",)),
    "views": ("Views", ("engine.views.*",)),
    "perturbation": ("Perturbations", ("engine.perturbation", "engine.noise")),
}
"""Pages of the reference: title and modules; ``.*`` stands for every module of a package."""

PROGRAM = "python -m engine"
LINK = re.compile(r"(?<=\]\()(?!\w+:)(?P<path>[^)#\s]+)(?P<anchor>#[^)\s]*)?(?=\))")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that no file under ``docs/`` holds."""
    made = {f"reference/{name}.md": _modules_page(title, names) for name, (title, names) in MODULES.items()}
    made |= {f"reference/{group}.md": _group_page(group) for group in plugins.PACKAGES}
    made |= {page: (PROJECT / source).read_text() for page, source in ROOT_PAGES.items()}
    made["reference/commands.md"] = _commands_page()
    for page, text in made.items():
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let links work that are written for the repository."""
    source = ROOT_PAGES.get(page.file.src_uri, f"docs/{page.file.src_uri}")

    def in_site(match: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), match["path"]))
        if path.startswith("docs/"):
            target = path.removeprefix("docs/")
        elif path in ROOT_PAGES.values():
            target = next(uri for uri, root_file in ROOT_PAGES.items() if root_file == path)
        elif (PROJECT / path).is_file():
            target = f"source/{path}"
            if files.get_file_from_path(target) is None:
                files.append(File.generated(config, target, abs_src_path=str(PROJECT / path)))
        else:
            return match[0]  # MkDocs names it as broken
        return posixpath.relpath(target, posixpath.dirname(page.file.src_uri) or ".") + (match["anchor"] or "")

    return LINK.sub(in_site, markdown)


def _modules_page(title: str, names: tuple[str, ...]) -> str:
    parts = [f"# {title}"]
    for name in names:
        modules = _modules_of(name.removesuffix(".*")) if name.endswith(".*") else [name]
        for module in modules:
            parts += [f"## `{module}`", _documented(module)]
    return "\n\n".join(parts) + "\n"


def _documented(module: str) -> str:
    return f"::: {module}\n    options:\n      show_root_heading: false\n      show_root_toc_entry: false"


def _modules_of(package: str) -> list[str]:
    return [f"{package}.{found.name}" for found in pkgutil.iter_modules(importlib.import_module(package).__path__)]


def _group_page(group: str) -> str:
    """Return the page of a group of plugins: of each its card, the fields of its spec, and what it exports."""
    parts = [
        f"# {group.capitalize()}",
        f"Every kind of a file under `specs/{group}`: its card, and the fields of its spec.",
    ]
    for kind, about in catalog()[group].items():
        title = kind if about["Name"] == kind else f"{about['Name']} (`{kind}`)"
        declared = ", ".join(f"`{name}`" for name in about["names"]) or "no file yet"
        parts += [
            f"## {title}",
            f"Declared in `specs/{group}`: {declared}.",
            _documented(f"{plugins.PACKAGES[group]}.{kind}"),
        ]
    return "\n\n".join(parts) + "\n"


def _commands_page() -> str:
    """Return what every command does and takes, in the words of its ``--help``."""
    from engine.cli import app

    program = typer.main.get_group(app)
    context = typer.Context(program, info_name=PROGRAM)
    parts = ["# Commands", program.help or ""]
    details = []
    for name, command in program.commands.items():
        parts.append(f"- [`{name}`](#python-m-engine-{name}): {command.help}")
        details.append(get_docs_for_click(obj=command, ctx=context, indent=1, call_prefix=PROGRAM))
    return "\n".join(["\n\n".join(parts[:2]), "", *parts[2:], "", *details])
