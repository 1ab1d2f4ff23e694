"""Tables as LaTeX: their content, and that they compile if LaTeX is installed."""

import re
import shutil
import subprocess

import pytest

from pipeline.grid.rows import known_tables, load_table
from pipeline.settings.loading import load_params
from pipeline.tables.form import TableSummary
from pipeline.tables.latex import escape, latex
from pipeline.tables.summary import summary

NASTY = r"100% of $5 & #1_{a}^b ~ \end{tabular} [<|>]"
DOCUMENT = r"""\documentclass{article}
\usepackage[paperwidth=60cm,paperheight=40cm]{geometry}
\usepackage{booktabs}
\begin{document}
%s
\end{document}
"""


def nasty_table():
    """A table with names that look like commands, a row of each kind, and one and two seeds."""
    two_seeds = {"mean": 64.5, "std": 3.5, "n": 2, "error": 2.25, "covers": "seeds and videos"}
    one_seed = {"mean": 50.0, "std": None, "n": 1}
    of_videos = one_seed | {"error": 1.5, "covers": "videos"}
    rows = [
        {"name": NASTY, "published": {"AP": 7.4}, "measured": {"AP": two_seeds}, "not_run": None},
        {"name": "[one] seed", "published": {}, "measured": {"AP": of_videos, "AR10": one_seed}, "not_run": None},
        {"name": "not yet", "published": {"AP": 1.0}, "measured": {}, "not_run": None},
        {"name": "elsewhere", "published": {"AP": 2.0}, "measured": {}, "not_run": NASTY},
    ]
    columns = {"backbone & co": "R50", "FPS": "<33"}
    rest = {"columns": columns, "set": {}, "runs": [], "evaluations": []}
    return TableSummary(table="table9z", title=f"Title {NASTY}", caption=NASTY, dataset="shapes_vis", profile="laptop",
                        rows=[rest | row for row in rows])


def all_tables(tiny_project):
    params = load_params(tiny_project(seeds=1) / "params.yaml")
    return [nasty_table(), *(summary(params, load_table(params, name)) for name in known_tables(params))]


def test_published_and_measured_each_have_a_line():
    lines = [line.strip() for line in latex(nasty_table()).splitlines()]
    begin, end = lines.index(r"\midrule") + 1, lines.index(r"\bottomrule")
    assert [line.removeprefix(escape(NASTY)) for line in lines[begin:end] if line != r"\addlinespace"] == [
        r" & R50 & \textless{}33 & published & 7.4 & -- & -- & -- & -- \\",
        r"&  &  & measured, n=2 & 64.5 $\pm$ 2.2 & -- & -- & -- & -- \\",
        r"{[}one{]} seed & R50 & \textless{}33 & measured, n=1 & 50.0 $\pm$ 1.5 (videos) & -- & -- & -- & 50.0 \\",
        r"not yet & R50 & \textless{}33 & published & 1.0 & -- & -- & -- & -- \\",
        r"&  &  & measured & -- & -- & -- & -- & -- \\",
        r"elsewhere & R50 & \textless{}33 & published & 2.0 & -- & -- & -- & -- \\",
    ]


def test_environments_are_balanced_and_lines_have_a_cell_for_each_column(tiny_project):
    for table in all_tables(tiny_project):
        text = latex(table)
        outer = "table*" if table.table == "table2" else "table"
        assert re.findall(r"\\(begin|end)\{([\w*]+)\}", text.replace(escape(NASTY), "")) == [
            ("begin", outer), ("begin", "tabular"), ("end", "tabular"), ("end", outer)]
        columns = len(re.search(r"\\begin\{tabular\}\{([lr]+)\}", text)[1])
        lines = [line for line in text.splitlines() if line.endswith(r"\\")]
        cells = [len(re.split(r"(?<!\\)&", line)) for line in lines]
        assert len(lines) > len(table.rows) and set(cells) == {columns}, table.table
        braces = re.findall(r"(?<!\\)[{}]", text)
        assert braces.count("{") == braces.count("}")


@pytest.mark.slow
def test_all_tables_compile(tiny_project, tmp_path):
    compilers = {"pdflatex": ["-halt-on-error", "-interaction=nonstopmode"], "tectonic": ["--untrusted"]}
    found = next((name for name in compilers if shutil.which(name)), None)
    if found is None:
        pytest.skip("neither pdflatex nor tectonic is installed")
    if found == "pdflatex" and subprocess.run(["kpsewhich", "booktabs.sty"], capture_output=True).returncode:
        pytest.skip("pdflatex has no booktabs package")
    tables = all_tables(tiny_project)
    (tmp_path / "all.tex").write_text(DOCUMENT % "\n".join(f"{latex(table)}\\clearpage" for table in tables))
    command = [found, *compilers[found], "all.tex"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace")
    assert ended.returncode == 0, ended.stdout[-3000:]
    assert (tmp_path / "all.pdf").stat().st_size > 0
    assert "Overfull \\hbox" not in ended.stdout + ended.stderr
