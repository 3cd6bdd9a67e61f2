"""``params.yaml``: the precision and the layout in use, shared by all studies."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from engine.spec import Name, Spec
from engine.specfiles import SpecFault, parse, read_document

FILE = Path("params.yaml")


class Params(Spec):
    """What networks compute in, and a name under ``specs/layouts``."""

    precision: Literal["fp32", "bf16", "fp16"]
    layout: Name


def load_params() -> Params:
    """Return the parameters in use.

    Raises:
        SpecFault: the file is missing or wrong.
    """
    document = read_document(FILE)
    params: Params | None = parse(document, Params)
    if params is None:
        raise SpecFault(document.faults)
    return params
