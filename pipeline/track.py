"""Brings what is new in runs/ into an MLflow tracking server, each step exactly once: MLflow is a view of the run store.

Trainings never wait for a server: they append to history.jsonl, and this command catches up, during the runs or later.
MLFLOW_TRACKING_URI names the server (default: the project's file mlflow.db).
"""

from __future__ import annotations

from pipeline.system.cli import add_split_argument, parser
from pipeline.system.masking import masked


def main(argv: list[str] | None = None) -> int:
    arguments = parser(__doc__, "pipeline.track")
    arguments.add_argument("--sync", action="store_true", required=True, help="bring what the server does not have, and exit")
    add_split_argument(arguments)
    options = arguments.parse_args(argv)
    from pipeline.mlflow_view.sync import sync_or_explain, tracking_uri
    from pipeline.settings.loading import load_params

    params = load_params(options.params, options.set)
    print(f"{sync_or_explain(params)} runs had news for {masked(tracking_uri(params))}")
    return 0


if __name__ == "__main__":
    from pipeline.system.cli import run

    run(main)
