"""A table with a row whose weights were given: a model folder with random weights that finds something everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import yaml
from support.models import put

from effvis.methods import build_model
from pipeline.indexing.read import load_index
from pipeline.settings.loading import load_params

EVERYTHING = {"presence_threshold": 0.0, "handcraft": {"new_tracklet_below": -100, "score_threshold": 0.0}}
TABLE, ROW = "table_given", "QueryInst, converted"


def put_model(project: Path, method: str = "efficientvis", folder: str = "models/x", seed: int = 0, **changes: Any) -> Path:
    """Writes a model folder for the project's data set into the project."""
    params = load_params(project / "params.yaml")
    categories = load_index(params, "val").categories
    torch.manual_seed(seed)
    model = build_model(params.of_method(method).model.resolve(len(categories), 3))
    place = project / folder
    place.parent.mkdir(parents=True, exist_ok=True)
    labels = [{"id": category.id, "name": category.name} for category in categories]
    linking = {} if method == "efficientvis" else {"linking": "hand-craft"}
    return put(place, model, **{"labels": labels, "inference": EVERYTHING | linking} | changes)


def write_table_of(project: Path, *settings: dict[str, Any], **table: Any) -> Path:
    """Writes the table: rows with these settings; the first one is ``ROW``, others are ``row 1``, ``row 2`` …"""
    rows = [{"name": f"row {number}" if number else ROW, "set": values} for number, values in enumerate(settings)]
    file = project / "experiments" / f"{TABLE}.yaml"
    file.write_text(yaml.safe_dump({"title": "Given weights", "rows": rows} | table))
    return file
