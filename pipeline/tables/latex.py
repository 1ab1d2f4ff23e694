"""A table as LaTeX with booktabs lines, for a paper to ``\\input``. It needs only the booktabs package.

Each row has separate lines for published numbers, measured numbers and those of a competition's server: nobody can confuse
them, and the table stays narrow.
"""

from __future__ import annotations

from pipeline.tables.form import Measured, RowSummary, TableSummary
from pipeline.tables.markdown import certainty_note, error_text, given_note, speed_note, speed_text, starts_note, starts_text
from pipeline.tables.summary import FIRST, OTHERS, same_frames

METRICS = (FIRST, *OTHERS)
_NONE = "--"
_SPECIAL = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "[": "{[}",  # after a line's \\, a bracket would begin an argument
    "]": "{]}",
    "–": "--",
    "×": r"$\times$",
    "±": r"$\pm$",
    **{character: f"\\{character}" for character in "&%$#_{}"},
}


def latex(table: TableSummary) -> str:
    """The table as a ``table`` environment with the label ``tab:<table>``."""
    extra = list(table.rows[0].columns)
    metrics = (*METRICS, *same_frames(table))
    with_starts, with_speed = bool(starts_note(table)), bool(table.speed_conditions)
    more = ["any, before / after"] * with_starts + ["FPS, model / all"] * with_speed
    # A table with many columns spans both columns of a two-column page, in smaller letters.
    environment, size = ("table*", r"\scriptsize") if len(extra) > 2 else ("table", r"\footnotesize")
    caption = [
        f"{table.title}.",
        table.caption,
        f"Percent; measured: on {table.measured_on} with the {table.profile} profile, means over seeds.",
        *filter(None, [certainty_note(table), starts_note(table), given_note(table), speed_note(table)]),
        *sorted({f"Without a measured line: {row.not_run}." for row in table.rows if row.not_run}),
    ]
    lines = [
        rf"\begin{{{environment}}}",
        rf"  \centering{size}\setlength{{\tabcolsep}}{{2pt}}",
        rf"  \caption{{{escape(' '.join(caption))}}}",
        rf"  \label{{tab:{table.table}}}",
        rf"  \begin{{tabular}}{{{'l' * (2 + len(extra))}{'r' * len([*metrics, *more])}}}",
        r"    \toprule",
        _line(["", *map(escape, extra), "", *map(escape, metrics), *map(escape, more)]),
    ]
    for number, row in enumerate(table.rows):
        lines += [r"    \addlinespace" if number else r"    \midrule",
                  *_row(row, metrics, with_starts=with_starts, with_speed=with_speed)]
    lines += [r"    \bottomrule", r"  \end{tabular}", rf"\end{{{environment}}}"]
    return "\n".join(lines) + "\n"


def _row(row: RowSummary, metrics: tuple[str, ...], *, with_starts: bool, with_speed: bool) -> list[str]:
    """The lines of a row: published, measured and server's numbers, in this order, as far as they exist. The measured line
    ends in AP before and after clip training, and in the speed."""
    published, measured = row.published, row.measured
    numbers = []
    if published:
        numbers.append(["published", *(_published(published.get(name)) for name in metrics)])
    if row.not_run is None:
        numbers.append(_ours(row, "measured", measured, metrics))
    if row.server is not None:
        numbers.append(_ours(row, "server", row.server, metrics))
    more = [starts_text(row)] * with_starts + [speed_text(row.speed)] * with_speed
    numbers = [[*line, *(escape(text) if line[0].startswith("measured") else "" for text in more)] for line in numbers]
    names = [escape(row.name), *map(escape, row.columns.values())]
    return [_line([*(names if line is numbers[0] else [""] * len(names)), *line]) for line in numbers]


def _ours(row: RowSummary, source: str, measured: dict[str, Measured], metrics: tuple[str, ...]) -> list[str]:
    """The cells of a line of means; the first one names the source of the numbers and, of trainings, the number of seeds."""
    seeds = f", n={measured[FIRST].n}" if FIRST in measured and not row.given else ""
    return [source + seeds, *(_measured(measured.get(name)) for name in metrics)]


def escape(text: str) -> str:
    """The text, escaped so that LaTeX prints it and finds no command in it."""
    return "".join(_SPECIAL.get(character, character) for character in text)


def _line(cells: list[str]) -> str:
    return rf"    {' & '.join(cells)} \\"


def _published(value: float | None) -> str:
    return _NONE if value is None else f"{value:.1f}"


def _measured(value: Measured | None) -> str:
    if value is None:
        return _NONE
    return f"{value.mean:.1f}" + escape(error_text(value))
