"""Command-line arguments that choose a trained model."""

from __future__ import annotations

import argparse

from pipeline.system.cli import add_row_arguments


def add_model_arguments(parser: argparse.ArgumentParser, default: str = "the headline run or, if it is not trained, the "
                        "weights that come with the project") -> None:
    """Adds --model, --row and --seed, which choose the model for the functions of ``pipeline.weights.models``."""
    parser.add_argument("--model", metavar="MODEL", help="a published model (pipeline.import_weights --list names them), which "
                        "is fetched once; headline; photo_object; a run's key; the folder of a model; or a .safetensors file "
                        f"with its config.yaml beside it (default: {default})")
    add_row_arguments(parser)
