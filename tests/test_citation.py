"""CITATION.cff holds what the Citation File Format 1.2.0 allows and requires, and says what the package says."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

import engine

PROJECT = Path(__file__).parents[1]
REQUIRED = {"authors", "cff-version", "message", "title"}
ALLOWED = REQUIRED | {
    *("abstract", "commit", "contact", "date-released", "doi", "identifiers", "keywords", "license", "license-url"),
    *("preferred-citation", "references", "repository", "repository-artifact", "repository-code", "type", "url"),
    "version",
}
"""The keys of a file; from the format's guide, section "Valid keys"."""
OF_A_REFERENCE = {
    *("abstract", "authors", "collection-title", "conference", "doi", "identifiers", "notes", "pages", "title"),
    *("type", "url", "year"),
}
"""Those of the keys of a reference that a paper needs."""
OF_A_PERSON = {"affiliation", "alias", "email", "family-names", "given-names", "name-particle", "name-suffix", "orcid"}
OF_AN_ENTITY = {"name", "alias", "city", "country", "email", "location", "orcid", "region", "website"}


@pytest.fixture(scope="module")
def citation() -> dict[str, Any]:
    found = YAML(typ="safe").load(PROJECT / "CITATION.cff")
    assert isinstance(found, dict)
    return found


def test_its_keys_are_those_of_the_format(citation: dict[str, Any]) -> None:
    assert set(citation) >= REQUIRED
    assert set(citation) <= ALLOWED
    assert citation["cff-version"] == "1.2.0"
    assert citation["type"] in ("software", "dataset")
    [paper] = citation["references"]
    assert set(paper) <= OF_A_REFERENCE
    assert {"authors", "title", "type"} <= set(paper)
    for author in [*citation["authors"], *paper["authors"]]:
        assert set(author) <= OF_A_PERSON or set(author) <= OF_AN_ENTITY


def test_it_says_what_the_package_says(citation: dict[str, Any]) -> None:
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    assert citation["version"] == project["version"] == engine.__version__
    assert citation["license"] == project["license"]
    assert citation["abstract"].rstrip(".") == project["description"]


def test_it_names_the_paper_of_the_attack(citation: dict[str, Any]) -> None:
    [paper] = citation["references"]
    card = (PROJECT / "engine/attacks/contrastive_poisoning.py").read_text().replace("\n    ", " ")
    assert paper["title"] in card
    assert [author["family-names"] for author in paper["authors"]] == ["He", "Zha", "Katabi"]
    assert {"type": "other", "value": "arXiv:2202.11202", "description": "preprint"} in paper["identifiers"]
