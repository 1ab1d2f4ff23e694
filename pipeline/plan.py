"""Writes the keys of everything that the parameters ask for to results/plan.

There is one small file for the headline run's training (train.json), one for its evaluation (evaluate.json) and one for each
table. The stages of dvc.yaml depend on these files: a comment in the code, or a parameter that a stage does not use, changes
no key, and so reruns nothing.
"""

from __future__ import annotations

import sys

from pipeline.system.cli import parser
from pipeline.system.files import json_bytes, write_atomically


def main(argv: list[str] | None = None) -> int:
    options = parser(__doc__, "pipeline.plan").parse_args(argv)
    from pipeline.grid import choices, linking
    from pipeline.grid.rows import headline_spec, load_table
    from pipeline.planning.plan import keys_of_table
    from pipeline.planning.prepare import prepare
    from pipeline.settings.loading import load_params

    params = load_params(options.params, options.set)
    prepare(params, params.tables)
    headline = headline_spec(params)
    plans = {"train": {"run": headline.train.key}, "evaluate": {"run": headline.train.key, "evaluation": headline.key}}
    tables = [load_table(params, name) for name in params.tables]
    rows = [row for table in tables for row in table.rows]
    for warning in (*choices.explain(params, rows)[1], *linking.warnings(params, rows)):
        print(f"warning: {warning}", file=sys.stderr)
    plans |= {table.name: keys_of_table(params, table) for table in tables}
    folder = params.results_dir / "plan"
    folder.mkdir(parents=True, exist_ok=True)
    for name, keys in plans.items():
        write_atomically(folder / f"{name}.json", json_bytes(keys))
    for file in folder.glob("*.json"):
        if file.stem not in plans:  # the plan of a table that the parameters no longer ask for
            file.unlink()
    print(f"{folder}: {', '.join(plans)}")
    return 0


if __name__ == "__main__":
    from pipeline.system.cli import run

    run(main)
