"""Shows all runs in a browser: brings MLflow up to date, then serves its pages until Ctrl-C.

MLFLOW_TRACKING_URI names the store (default: the project's file mlflow.db). If it names a server, that server has the pages,
and the command only prints their address.
"""

from __future__ import annotations

import signal

from pipeline.system.cli import parser
from pipeline.system.masking import masked


def main(argv: list[str] | None = None) -> int:
    arguments = parser(__doc__, "pipeline.ui")
    arguments.add_argument("--port", type=int, default=5000, help="the network port (default: 5000)")
    arguments.add_argument("--host", default="127.0.0.1", help="the network address to listen on. MLflow asks for no "
                           "password: on any but this machine's own (the default, 127.0.0.1) others can read and delete runs")
    options = arguments.parse_args(argv)
    from pipeline.mlflow_view.server import check_free, ended_early, is_server, runs_page, serving
    from pipeline.mlflow_view.sync import sync_or_explain, tracking_uri
    from pipeline.settings.loading import load_params

    params = load_params(options.params, options.set)
    uri = tracking_uri(params)
    if not is_server(uri):
        check_free(options.host, options.port)
    print(f"{sync_or_explain(params)} runs had news for {masked(uri)}", flush=True)
    if is_server(uri):
        print(masked(runs_page(uri, uri)))
        return 0
    signal.signal(signal.SIGHUP, signal.getsignal(signal.SIGTERM))  # closing the terminal must not leave the server running
    log = params.runs_dir / ".mlflow" / f"ui-{options.port}.log"
    try:
        with serving(uri, options.host, options.port, log) as (address, process):
            print(f"{runs_page(address, uri)}  (Ctrl-C ends it)", flush=True)
            process.wait()
            raise ended_early(process, log)
    except KeyboardInterrupt:  # the normal way to end the server
        return 0


if __name__ == "__main__":
    from pipeline.system.cli import run

    run(main)
