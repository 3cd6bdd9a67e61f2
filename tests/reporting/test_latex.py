"""LaTeX tables print what they were given, whatever characters it holds."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from engine.reporting.latex import escape, tabular

PRINTS = {
    **{rf"\{character}": character for character in "#$%&_{}"},
    r"\textbackslash{}": "\\",
    r"\textasciicircum{}": "^",
    r"\textasciitilde{}": "~",
    r"\textasciigrave{}": "`",
    r"\textless{}": "<",
    r"\textgreater{}": ">",
    r"\textbar{}": "|",
    "{[}": "[",
    "{*}": "*",
    r"\(\pm\)": "\N{PLUS-MINUS SIGN}",
    r"\(-\)": "\N{MINUS SIGN}",
    r"\(\times\)": "\N{MULTIPLICATION SIGN}",
    r"\(\cdot\)": "\N{MIDDLE DOT}",
    "--": "\N{EN DASH}",
}
TEXT = st.text(st.sampled_from([*"abXY09 .,()]+", *PRINTS.values()]))


def printed(latex: str) -> str:
    """Return what TeX prints; a character that it would take as an order is an error."""
    found = []
    while latex:
        order = next((order for order in sorted(PRINTS, key=len, reverse=True) if latex.startswith(order)), None)
        assert order or not re.match(r"[\\#$%&_{}^~`<>|\[*]", latex), latex
        found.append(PRINTS[order] if order else latex[0])
        latex = latex[len(order or " ") :]
    return "".join(found)


@given(TEXT)
def test_what_is_escaped_prints_as_it_was(text: str) -> None:
    assert printed(escape(text)) == text


@given(st.lists(st.tuples(TEXT, TEXT, TEXT), min_size=1, max_size=4))
def test_a_table_has_as_many_cells_a_line_as_headings(lines: list[tuple[str, str, str]]) -> None:
    found = tabular("A title", ("a_b", "c (%)", "d"), lines, {0, 2}).splitlines()
    first, last = ("p{5cm}" if any(len(line[place]) > 40 for line in lines) else "l" for place in (0, 2))
    assert found[1] == rf"\begin{{tabular}}{{@{{}}{first}r{last}@{{}}}}"
    assert (found[2], found[4], found[-2], found[-1]) == (
        r"  \toprule",
        r"  \midrule",
        r"  \bottomrule",
        r"\end{tabular}",
    )
    written = [line.removeprefix("  ").removesuffix(r" \\") for line in [found[3], *found[5:-2]]]
    cells = [tuple(map(printed, line.split(" & "))) for line in written]
    assert cells == [("a_b", "c (%)", "d"), *lines]
    assert all(line.endswith(r" \\") for line in [found[3], *found[5:-2]])


def test_sentences_are_broken_into_lines_and_numbers_are_not() -> None:
    text = tabular("A title", ("a", "b", "c"), [("a" * 41, "1" * 41, "c" * 40)], {0, 2})
    assert r"\begin{tabular}{@{}p{5cm}rl@{}}" in text


def test_a_table_is_that_of_booktabs() -> None:
    lines = [("cp_s", "37.2 \N{PLUS-MINUS SIGN} 0.6"), ("clean", "\N{EN DASH}")]
    assert (
        tabular("Accuracy", ("poison", "linear (%)"), lines, {0})
        == r"""% Accuracy. Needs \usepackage{booktabs}.
\begin{tabular}{@{}lr@{}}
  \toprule
  poison & linear (\%) \\
  \midrule
  cp\_s & 37.2 \(\pm\) 0.6 \\
  clean & -- \\
  \bottomrule
\end{tabular}
"""
    )
