"""Prints the digests of today's code, which are part of every key.

A key is 16 hex digits made of everything that a result follows from, and of nothing else. A training's key is made of the
data, the model, the training configuration, the seed, the starting weights and the code that trains. Paths, worker counts
and logging are not in it. The code enters by its syntax trees: a comment or a docstring changes no key, but a changed line
always does, unless pipeline/identity/same_results.yaml says that it gives the same results.
"""

from __future__ import annotations

import argparse

from pipeline import methods
from pipeline.identity.digests import code_digest, counted_as, evaluation_code, training_code


def main(argv: list[str] | None = None) -> int:
    argparse.ArgumentParser(prog="python -m pipeline.keys", description=__doc__, allow_abbrev=False,
                            formatter_class=argparse.RawDescriptionHelpFormatter).parse_args(argv)
    for kind, code_of in (("training", training_code), ("evaluation", evaluation_code)):
        for method in methods.everyone():
            digest = code_digest(code_of(method))
            counted = counted_as(kind, digest)
            print(f"{kind:10}  {method.name:12}  {digest}" + ("" if counted == digest else f"  counts as {counted}"))
    return 0


if __name__ == "__main__":
    from pipeline.system.cli import run

    run(main)
