"""Declare a released poison as an attack, so that it is made, tracked and studied like every other."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ruamel.yaml import YAML

from engine.errors import EngineError
from engine.images.presence import data_root
from engine.specfiles import file_of, load, write_spec


@contextmanager
def declare_import(source: Path, name: str, layout: str = "", **how: object) -> Iterator[Path]:
    """Write the spec of an imported poison, which stays where the block ends without an error; yield its file.

    ``how`` are further fields of the spec: epsilon, match, partial.

    Raises:
        ImportFault: there is no such source, or its name does not say its form.
        SpecFault: a value is none that the spec may have.
        EngineError: another attack has this name.
    """
    from engine.importing import fingerprint, layout_of

    root, place = data_root().absolute(), source.absolute()
    content = {
        "kind": "imported",
        "path": place.relative_to(root).as_posix() if root in place.parents else str(place),
        "layout": layout or layout_of(source),
        "sha256": fingerprint(source),
        **how,
    }
    file = file_of("attacks", name)
    before = file.read_text() if file.is_file() else None
    if before is not None and YAML(typ="safe").load(before) != content:
        raise EngineError(f"{file} declares another attack; take another name, or remove that file")
    if before is None:
        write_spec(file, "attacks", content)
    try:
        load("attacks", name)
        yield file
    except BaseException:
        if before is None:
            file.unlink()
        raise
