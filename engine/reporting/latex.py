"""Tables for papers: LaTeX with the rules of booktabs."""

from __future__ import annotations

from collections.abc import Collection, Sequence

LETTERS, WIDTH = 40, "5cm"  # a column of longer texts has this width
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

    ``words`` says which columns hold no numbers; they are flush left, and broken into lines where they hold sentences.
    """
    columns = "".join(_column(texts) if place in words else "r" for place, texts in enumerate(zip(*lines, strict=True)))
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


def _column(texts: Sequence[str]) -> str:
    return "l" if max(map(len, texts)) <= LETTERS else rf"p{{{WIDTH}}}"
