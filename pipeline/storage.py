"""``storage_path``: a second place for runs, which outlives the machine that trains, an object store (S3, …) or a folder.

Checkpoints and finished runs are copied there while they come, and taken from there where the run store lacks them
(``pipeline.runs.remote``). As a command, it copies all runs one way and ends.
"""

from __future__ import annotations

from effvis.errors import UserError
from pipeline.runs.store import RunStore
from pipeline.system.cli import parser


def main(argv: list[str] | None = None) -> int:
    arguments = parser(__doc__, "pipeline.storage")
    way = arguments.add_mutually_exclusive_group(required=True)
    way.add_argument("--push", action="store_true", help="bring what the storage lacks of this run store")
    way.add_argument("--pull", action="store_true", help="take what this run store lacks")
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
