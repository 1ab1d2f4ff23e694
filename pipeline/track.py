"""MLflow as a view of the run store: brings what is new in runs/ into a tracking server, each step exactly once.

Nothing waits for a server: trainings append to history.jsonl, and this catches up, during the runs or later.
MLFLOW_TRACKING_URI names the server (default: the file mlflow.db of the project).
"""

from __future__ import annotations

from pipeline.system.cli import parser
from pipeline.system.masking import masked


def main(argv: list[str] | None = None) -> int:
    arguments = parser(__doc__, "pipeline.track")
    arguments.add_argument("--sync", action="store_true", required=True, help="bring what the server lacks, and end")
    options = arguments.parse_args(argv)
    from pipeline.mlflow_view.sync import sync_or_explain, tracking_uri
    from pipeline.settings.loading import load_params

    params = load_params(options.params, options.set)
    print(f"{sync_or_explain(params)} runs had news for {masked(tracking_uri(params))}")
    return 0


if __name__ == "__main__":
    from pipeline.system.cli import run

    run(main)
