"""Looks at the trainings of tables: their starts, a measured step, steps, hours and the disk space that they take."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from statistics import median
from typing import TYPE_CHECKING

import torch

from effvis.config import Config
from effvis.errors import UserError
from effvis.methods import build_model
from effvis.training.loop import total_steps, train
from pipeline import methods
from pipeline.checks.finding import Finding, of_error
from pipeline.engine.training import set_up_torch, start
from pipeline.grid import starts
from pipeline.grid.rows import evaluation_spec, network, runnable_rows
from pipeline.indexing.read import dataset_facts, load_clips, load_index, read_facts
from pipeline.runs.store import RunStore
from pipeline.scheduling.machine import device, side_by_side
from pipeline.scheduling.ray_session import slots_now

if TYPE_CHECKING:
    from pipeline.identity.specs import TrainSpec
    from pipeline.settings.params import Params, RowSettings

GIB = 2**30
# Two checkpoints, each with the weights and AdamW's two moments of them.
CHECKPOINT_COPIES = 2 * 3


def rows_of(params: Params, names: Iterable[str], wanted: Iterable[str]) -> list[RowSettings]:
    """The rows that these tables train of the wanted methods, and the headline run."""
    found = [settings for name in names for _, settings in runnable_rows(params, name) if settings.weights is None]
    return [settings for settings in (params.headline, *found) if settings.method in wanted]


def start_weights(params: Params, rows: Iterable[RowSettings]) -> Iterator[Finding]:
    """What the rows start from, once for each network; weights in a file must fit it."""
    said = set()
    for settings in rows:
        model = network(params, settings)
        method = methods.get(settings.method)
        name = f"{method.title} with {model.backbone}"
        if name in said:
            continue
        said.add(name)
        source = params.of_method(method.name).pretrain.source
        try:
            init = starts.given(params, model)
            if init is None:
                text = "nothing: random weights" if source == "none" else f"weights of this project (pretrain.source: {source})"
                yield Finding("start", f"{name} starts from {text}")
                continue
            file = params.root / starts.file_name(source, model)
            categories = dataset_facts(params).categories
            one_frame = model.resolve(len(categories), params.clip_length(settings.T))
            left = starts.load_file_start(file, init).load_into(build_model(one_frame), categories)
        except UserError as error:
            yield of_error("start", error)
        except ValueError as error:
            yield Finding("start", f"{name}: {file} is of another network: {error}", "Convert weights for this one: python -m "
                          f"pipeline.import_weights, with -S {method.prefix}model.backbone={model.backbone}", missing=True)
        else:
            yield Finding("start", f"{name} starts from {file}; {len(left)} of its tensors stay as initialised")


def trainings_of(params: Params, rows: Iterable[RowSettings]) -> tuple[dict[str, TrainSpec], int]:
    """The rows' missing trainings by key, with those that they start from, and how many of the rows cannot be planned."""
    store, found, unplanned = RunStore(params.runs_dir), {}, set()
    for settings in rows:
        for seed in range(params.seeds):
            try:
                spec: TrainSpec | None = evaluation_spec(params, settings, seed).train
            except UserError:
                unplanned.add(settings.model_dump_json())  # the findings on data and starts say why
                continue
            while spec is not None and spec.key not in found:
                found[spec.key] = spec
                spec = spec.parent
    return {key: spec for key, spec in found.items() if not store.is_done(key)}, len(unplanned)


@dataclass(frozen=True)
class Measured:
    """A step of one worker's share of a batch.

    Attributes:
        frames: that the share has.
        peak: bytes of the GPU's memory; None on a processor.
    """

    seconds: float
    frames: int
    peak: int | None


# A method and its backbone.
Network = tuple[str, str]


def measured_steps(params: Params, specs: Iterable[TrainSpec], steps: int) -> dict[Network, Measured]:
    """Steps of the training with the most frames of each method and backbone, on one device. Nothing is written.

    Raises:
        UserError: there is no device.
    """
    largest: dict[Network, TrainSpec] = {}
    for spec in sorted(specs, key=lambda spec: _frames(params, spec)):
        largest[_network(spec)] = spec
    try:
        return {network: _measured(params.of_dataset(spec.dataset_name), spec, steps) for network, spec in largest.items()}
    except torch.OutOfMemoryError:
        raise UserError("params.yaml", "resources", "a training step does not fit into the GPU's memory", "Take GPUs with "
                        "more, or set train.activation_checkpointing: true, train.precision: bf16 or a smaller input_size; "
                        "python -m benchmarks.activations counts what a step takes") from None


def _network(spec: TrainSpec) -> Network:
    return spec.method, spec.model.backbone


def _measured(params: Params, spec: TrainSpec, steps: int) -> Measured:
    set_up_torch(params)
    on = device(params.resources)
    share = math.ceil(spec.train.batch_size / params.resources.workers_per_run)
    spec = replace(spec, train=spec.train.model_copy(update={"batch_size": share}))
    begun = start(spec, load_index(params, "train"), load_clips(params, "train", spec.model.clip_length), None)
    begun.model.to(on)
    if on.type == "cuda":
        torch.cuda.reset_peak_memory_stats(on)
    ended = []
    for _ in train(begun.model, begun.losses_of, begun.pairs, spec.train, accumulate=params.resources.accumulate):
        ended.append(time.perf_counter())
        if len(ended) > steps:  # the first step warms up
            break
    peak = torch.cuda.max_memory_allocated(on) if on.type == "cuda" else None
    seconds = median(after - before for before, after in zip(ended, ended[1:], strict=False)) if len(ended) > 1 else math.nan
    return Measured(seconds, _frames(params, spec), peak)


def step(params: Params, measured: Mapping[Network, Measured]) -> Iterator[Finding]:
    """A step's time and memory for each method and backbone."""
    for (method, backbone), one in measured.items():
        text = f"{methods.get(method).title} with {backbone}: {one.seconds:.2f} s for {one.frames} frames on one device"
        if one.peak is not None:
            whole = torch.cuda.get_device_properties(0).total_memory
            text += f", at most {one.peak / GIB:.1f} of its {whole / GIB:.0f} GiB"
        yield Finding("step", text + "; exchanging gradients with other devices is not in it")


def time_and_steps(
    params: Params, specs: Mapping[str, TrainSpec], unplanned: int, measured: Mapping[Network, Measured]
) -> Iterator[Finding]:
    """How many steps the trainings have, and how many hours they take where a step has been measured."""
    if unplanned:
        yield Finding("time", f"{unplanned} rows have no data or no start yet", unknown=True)
    if not specs:
        if not unplanned:
            yield Finding("time", "no training is missing")
        return
    steps = {key: _steps(params, spec) for key, spec in specs.items()}
    fewest, most = min(steps.values()), max(steps.values())
    text = f"{len(specs)} trainings are missing, of {fewest:,}{f' to {most:,}' if most > fewest else ''} steps"
    known = [key for key, spec in specs.items() if _network(spec) in measured]
    if len(known) < len(specs):
        text += f"; how long {len(specs) - len(known)} of them take is not known: no step was measured"
    if known:
        slots = slots_now(params.resources, params.runs_dir)
        seconds = sum(steps[key] * _seconds(params, specs[key], measured) for key in known)
        longest = max(steps[key] * _seconds(params, specs[key], measured) for key in known)
        text += (f"; {len(known)} take about {max(seconds / slots, longest) / 3600:.1f} h with {slots} side by side, the "
                 f"longest {longest / 3600:.1f} h, evaluations not counted")
    yield Finding("time", text, unknown=len(known) < len(specs))


def disk_needed(params: Params, specs: Iterable[TrainSpec]) -> float:
    """Bytes that the trainings leave, and that their checkpoints take meanwhile."""
    sizes = [_weights_bytes(spec.model) for spec in specs]
    at_once = max(sizes, default=0) * CHECKPOINT_COPIES * side_by_side(params.resources)
    return sum(sizes) * (1 + params.resources.snapshots) + at_once


def _steps(params: Params, spec: TrainSpec) -> int:
    videos = len(read_facts(params.of_dataset(spec.dataset_name))["splits"]["train"]["videos"])
    return total_steps(spec.train, max(1, videos // spec.train.batch_size))


def _seconds(params: Params, spec: TrainSpec, measured: Mapping[Network, Measured]) -> float:
    """Of a step, by the frames of one worker's share."""
    one = measured[_network(spec)]
    return one.seconds * _frames(params, spec) / params.resources.workers_per_run / one.frames


def _frames(params: Params, spec: TrainSpec) -> int:
    """Frames of a batch."""
    longest = read_facts(params.of_dataset(spec.dataset_name))["splits"]["train"]["longest_video"]
    clips = methods.get(spec.method).clips_per_video(spec.train, spec.model.clip_length, longest)
    return spec.train.batch_size * clips * spec.model.clip_length


@cache
def _weights_bytes(model: Config) -> int:
    with torch.device("meta"):
        return sum(values.nbytes for values in build_model(model).state_dict().values())
