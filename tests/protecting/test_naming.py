"""Names of protected files: as before where the format allows it, never two the same."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.protecting.intake import Original
from engine.protecting.naming import format_of, protected_names


def named(*names: str, side: int = 10) -> tuple[Original, ...]:
    return tuple(Original(name, "", side, side, 1, 1, False) for name in names)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (["a.png", "b.PNG", "c.webp", "d/e.WebP"], ["a.png", "b.PNG", "c.webp", "d/e.WebP"]),
        (["a.jpg", "d/b.GIF", "c.tar.tif"], ["a.png", "d/b.png", "c.tar.png"]),
        (["a.jpg", "a.png"], ["a.jpg.png", "a.png"]),
        (["a.jpg", "a.gif"], ["a.jpg.png", "a.gif.png"]),
        (["a.jpg", "A.png"], ["a.jpg.png", "A.png"]),
        (["a.jpg", "a.jpg.png", "a.png"], ["a.jpg.png.png", "a.jpg.png", "a.png"]),
        (["d/a.jpg", "e/a.png"], ["d/a.png", "e/a.png"]),
    ],
)
def test_names_stay_or_get_an_ending_of_a_lossless_format(old: list[str], new: list[str]) -> None:
    assert protected_names(named(*old)) == tuple(new)


def test_an_image_too_large_for_webp_becomes_png() -> None:
    assert protected_names(named("a.webp", side=16383)) == ("a.webp",)
    assert protected_names(named("a.webp", side=16384)) == ("a.png",)


NAME = st.builds(
    "".join, st.lists(st.sampled_from(["a", "A", ".png", ".jpg", ".gif", ".jpg.png"]), min_size=0, max_size=2)
)


@given(st.sets(st.builds("{}a{}".format, NAME, st.sampled_from([".png", ".jpg", ".gif", ".webp"])), max_size=12))
def test_new_names_are_all_different_also_where_case_does_not_count(old: set[str]) -> None:
    distinct = {name.casefold(): name for name in old}  # what a disk that ignores case can hold
    new = protected_names(named(*sorted(distinct.values())))
    assert len({name.casefold() for name in new}) == len(distinct)
    assert all(format_of(name) in ("PNG", "WEBP") for name in new)
