"""Copies all runs between the run store and ``storage_path``, one way.

``storage_path`` is a second place for runs that outlives the machine that trains: an object store (S3, …) or a folder.
Trainings copy checkpoints and finished runs there as they appear, and fetch from there what the run store does not have
(``pipeline.runs.remote``).
"""

from __future__ import annotations

from effvis.errors import UserError
from pipeline.runs.store import RunStore
from pipeline.system.cli import parser


def main(argv: list[str] | None = None) -> int:
    arguments = parser(__doc__, "pipeline.storage")
    way = arguments.add_mutually_exclusive_group(required=True)
    way.add_argument("--push", action="store_true", help="copy to the storage what it does not have")
    way.add_argument("--pull", action="store_true", help="copy to this run store what it does not have")
    options = arguments.parse_args(argv)
    from pipeline.runs.remote import states
    from pipeline.runs.storage import SETTING, explaining_failures, pull, storage_of
    from pipeline.settings.loading import load_params

    params = load_params(options.params, options.set)
    storage, store = storage_of(params), RunStore(params.runs_dir)
    if storage is None:
        raise UserError(options.params, SETTING, "is not set", f"Set it, or give -S {SETTING}=s3://BUCKET/FOLDER")
    with explaining_failures(storage, options.params):
        if options.push:
            news = sum(storage.push(store, key) for key, _ in states(store))
            print(f"{news} runs had news for {storage.address}")
        else:
            print(f"{pull(storage, store, storage.runs())} runs were taken from {storage.address}")
    return 0


if __name__ == "__main__":
    from pipeline.system.cli import run

    run(main)
