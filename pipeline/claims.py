"""Writes the ledger: for each claim of the paper, whether our numbers support it (results/claims.{json,md}).

experiments/claims.yaml holds the claims, the rows that each one compares, and its rule. Everything is computed from the cells.
"""

from __future__ import annotations

from pipeline.system.arguments import positive_int
from pipeline.system.cli import add_split_argument, parser


def main(argv: list[str] | None = None) -> int:
    arguments = parser(__doc__, "pipeline.claims")
    arguments.add_argument("--seeds", type=positive_int, metavar="N", help="compare N seeds (default: as in the parameters)")
    add_split_argument(arguments)
    options = arguments.parse_args(argv)

    from pipeline.settings.loading import load_params
    from pipeline.tables.claims import write_ledger
    from pipeline.tables.claims_file import load_ledger

    overrides = [*options.set, *([] if options.seeds is None else [f"seeds={options.seeds}"])]
    params = load_params(options.params, overrides)
    file = write_ledger(params, load_ledger(params))
    print(file.read_text(encoding="utf-8"))
    print(f"written to {file}")
    return 0


if __name__ == "__main__":
    from pipeline.system.cli import run

    run(main)
