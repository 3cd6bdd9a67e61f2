"""Tables for papers: LaTeX with the rules of booktabs."""

from __future__ import annotations

from collections.abc import Collection, Sequence

SPECIAL = str.maketrans(
    {
        **{character: rf"\{character}" for character in "#$%&_{}"},
        "\\": r"\textbackslash{}",
        "^": r"\textasciicircum{}",
        "~": r"\textasciitilde{}",
        "`": r"\textasciigrave{}",
        # Of the default encoding's letters, these three are others than what one types.
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "|": r"\textbar{}",
        # Behind the end of a line, \\ takes these as arguments of its own.
        "[": "{[}",
        "*": "{*}",
        "\N{PLUS-MINUS SIGN}": r"\(\pm\)",
        "\N{MINUS SIGN}": r"\(-\)",
        "\N{MULTIPLICATION SIGN}": r"\(\times\)",
        "\N{MIDDLE DOT}": r"\(\cdot\)",
        "\N{EN DASH}": "--",
    }
)


def escape(text: str) -> str:
    """Return text as LaTeX that prints it."""
    return text.translate(SPECIAL)


def tabular(title: str, headings: Sequence[str], lines: Sequence[Sequence[str]], words: Collection[int]) -> str:
    """Return a table to include where the package booktabs is loaded.

    ``words`` says which columns hold no numbers; they are flush left.
    """
    columns = "".join("l" if place in words else "r" for place in range(len(headings)))
    head, *body = (f"  {' & '.join(map(escape, line))} \\\\" for line in (headings, *lines))
    return "\n".join(
        [
            f"% {title}. Needs \\usepackage{{booktabs}}.",
            rf"\begin{{tabular}}{{@{{}}{columns}@{{}}}}",
            r"  \toprule",
            head,
            r"  \midrule",
            *body,
            r"  \bottomrule",
            r"\end{tabular}",
            "",
        ]
    )
