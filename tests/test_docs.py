"""The site builds without a warning, leads nowhere wrong, fetches nothing, and shows what the code has."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from functools import cached_property
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import typer

from engine import plugins
from engine.cli import app

PROJECT = Path(__file__).parents[1]
FETCHED = {"script": "src", "img": "src", "iframe": "src", "source": "src", "video": "src", "link": "href"}
"""Elements whose address a browser loads by itself, and the attribute that holds it."""


class HtmlPage(HTMLParser):
    """What a page refers to, and what it can be referred to by."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.file, self.links, self.fetched, self.anchors, self.styles = file, [], [], set(), []
        self.text = file.read_text(encoding="utf-8")
        self.feed(self.text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        found = dict(attributes)
        self.anchors |= {found[key] for key in ("id", "name") if found.get(key)}
        self.styles.append(found.get("style") or "")
        address = found.get(FETCHED.get(tag, ""))
        if tag == "a" and found.get("href"):
            self.links.append(found["href"])
        elif address and found.get("rel") not in ("canonical", "next", "prev"):
            self.fetched.append(address)


class Site:
    """A built site."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @cached_property
    def pages(self) -> dict[str, HtmlPage]:
        """Return the pages that the project wrote: not what it only hands out, as committed reports."""
        files = (file.relative_to(self.folder) for file in sorted(self.folder.rglob("*.html")))
        return {
            str(file): HtmlPage(self.folder / file) for file in files if file.parts[0] not in ("source", "404.html")
        }


def build(target: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(target), *options]
    surroundings = os.environ | {"PYTHONPATH": str(PROJECT), "NO_MKDOCS_2_WARNING": "1"}
    return subprocess.run(command, cwd=PROJECT, env=surroundings, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    target = tmp_path_factory.mktemp("site")
    done = build(target)
    assert done.returncode == 0, done.stderr
    return Site(target)


def test_every_link_and_anchor_leads_somewhere(site: Site) -> None:
    checked, broken = 0, []
    for name, page in site.pages.items():
        for address in [*page.links, *page.fetched]:
            parts = urlsplit(address)
            if parts.scheme in ("http", "https", "mailto", "data"):
                continue
            checked += 1
            target = (page.file.parent / unquote(parts.path)).resolve() if parts.path else page.file
            wanted = unquote(parts.fragment)
            known = site.pages.get(str(target.relative_to(site.folder)) if target.is_relative_to(site.folder) else "")
            if not target.is_file() or (known and wanted and wanted not in known.anchors | {"__toc"}):
                broken.append(f"{name}: {address}")
    assert broken == []
    assert checked > 5000


def test_no_page_is_loaded_from_the_network(site: Site) -> None:
    outside = re.compile(r"(?:https?:)?//")
    assert sum(len(page.fetched) for page in site.pages.values()) > 100
    for name, page in site.pages.items():
        assert [address for address in page.fetched if outside.match(address)] == [], name
        assert [style for style in page.styles if "//" in style] == [], name
        assert 'class="mermaid"' not in page.text, f"{name}: the theme would fetch mermaid to draw this"
    sheets = [file.read_text() for file in site.folder.rglob("*.css")]
    assert len(sheets) >= 3
    assert [
        found for sheet in sheets for found in re.findall(r"(?:url\(|@import)\s*[\"']?(?:https?:)?//\S*", sheet)
    ] == []


def test_no_page_is_an_orphan(site: Site) -> None:
    start = site.pages["index.html"]
    reached = {start.file}
    for address in start.links:
        if not urlsplit(address).scheme:
            reached.add((start.file.parent / urlsplit(address).path).resolve())
    assert [name for name, page in site.pages.items() if page.file not in reached] == []
    written = {str(file.relative_to(PROJECT / "docs").with_suffix(".html")) for file in PROJECT.glob("docs/**/*.md")}
    assert written <= set(site.pages)
    assert len(written) > 25


@pytest.mark.parametrize("group", plugins.PACKAGES)
def test_every_plugin_has_its_card_and_its_fields(site: Site, group: str) -> None:
    page = site.pages[f"reference/{group}.html"]
    for kind in plugins.kinds(group):
        package = f"{plugins.PACKAGES[group]}.{kind}"
        assert {f"{package}.Spec", f"{package}.Spec.kind", f"{package}.build"} <= page.anchors
    assert page.text.count("<strong>Name:</strong>") == len(plugins.kinds(group))


def test_every_command_and_its_options_are_there(site: Site) -> None:
    page = site.pages["reference/commands.html"].text
    program = typer.main.get_command(app)
    assert len(program.commands) >= 19
    for name, command in program.commands.items():
        assert f"python -m engine {name}" in page
        for option in (spelling for parameter in command.params for spelling in parameter.opts if "--" in spelling):
            assert option in page, f"{name} {option}"


@pytest.mark.parametrize(
    ("page", "names"),
    [
        ("api", ["engine.api.Study.declare", "engine.api.load_poison", "engine.api.run"]),
        ("protocols", ["engine.protocols.Victim.loss", "engine.protocols.Attack", "engine.protocols.Poison.delta"]),
        ("spec", ["engine.spec.AttackSpec.epsilon", "engine.victimspec.ViewsSpec.size", "engine.study.StudySpec"]),
        ("losses", ["engine.losses.nt_xent", "engine.losses.sup_con", "engine.losses.class_separability"]),
        ("views", ["engine.views.chain.Views.sample", "engine.views.chain.Views.apply", "engine.views.blur.blur"]),
        ("perturbation", ["engine.perturbation.add_poison", "engine.perturbation.quantize_levels"]),
    ],
)
def test_the_public_interface_is_there(site: Site, page: str, names: list[str]) -> None:
    found = site.pages[f"reference/{page}.html"]
    assert {name for name in names if name not in found.anchors} == set()


def test_fields_are_described_by_their_comments_and_sources_stand_apart(site: Site) -> None:
    spec = site.pages["reference/spec.html"].text
    assert "<p>How often a long stage writes a checkpoint, from which it goes on after it was stopped.</p>" in spec
    assert "noqa" not in spec
    losses = site.pages["reference/losses.html"].text
    assert "<p><strong>Source:</strong> Chen et al. 2020 (SimCLR), eq. 1 and Algorithm 1.</p>" in losses


@pytest.mark.parametrize(
    ("pages", "words"),
    [
        ({"index.md": "# A\n\n[gone](gone.md)\n"}, "gone.md"),
        ({"index.md": "# A\n\n[lost](index.md#lost)\n"}, "lost"),
        ({"index.md": "# A\n", "orphan.md": "# B\n"}, "orphan.md"),
    ],
    ids=["a broken link", "a broken anchor", "an orphan"],
)
def test_what_is_wrong_ends_the_build(tmp_path: Path, pages: dict[str, str], words: str) -> None:
    (tmp_path / "docs").mkdir()
    for name, text in pages.items():
        (tmp_path / "docs" / name).write_text(text)
    settings = f"INHERIT: {PROJECT}/mkdocs.yml\ndocs_dir: docs\nhooks: []\nplugins: []\nnav: [index.md]\n"
    (tmp_path / "mkdocs.yml").write_text(settings)
    done = build(tmp_path / "site", "--config-file", str(tmp_path / "mkdocs.yml"))
    assert done.returncode == 1
    complaints = done.stderr.split("WARNING")[1:]
    assert len(complaints) == 1
    assert words in complaints[0]
