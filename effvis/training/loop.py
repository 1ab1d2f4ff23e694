"""The training loop: a generator that yields progress. Its caller decides what to log, save or report."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from effvis.config import OptimisationConfig
from effvis.data.clips import ClipPairs
from effvis.model.recompute import prepare
from effvis.training.parts import BatchGradients, LossesOf

# Prefixes of the names of a backbone's parameters, with a pyramid around its body and without.
BACKBONE_PREFIXES = ("backbone.", "body.")
GATE = ".temporal.gate"


@dataclass(frozen=True)
class TrainingStep:
    """Where training stands after a step.

    Attributes:
        step: number of steps done, from 1.
        videos_seen: number of clip pairs seen, one per video and epoch.
        losses: weighted losses of this step, and their sum as ``total``.
        state: takes a snapshot from which ``train`` continues bitwise as if it had never stopped.
    """

    step: int
    total_steps: int
    epoch: float
    videos_seen: int
    lr: float
    losses: dict[str, float]
    state: Callable[[], dict[str, Any]]


def total_steps(config: OptimisationConfig, steps_per_epoch: int) -> int:
    return max(1, math.ceil(config.epochs * steps_per_epoch))


def learning_rate(config: OptimisationConfig, step: int, steps_per_epoch: int) -> float:
    """The rate of the step that follows ``step`` finished ones: linear warm-up, then constant, a tenth after the drop."""
    return config.lr * _schedule(config, step, steps_per_epoch)


def train(
    model: nn.Module, losses_of: LossesOf, pairs: ClipPairs, config: OptimisationConfig, *,
    resume: dict[str, Any] | None = None, accumulate: int = 1
) -> Iterator[TrainingStep]:
    """Trains in place, yielding after every step.

    The same model, pairs and config give bitwise the same weights on one machine, resumed or not: a step's clips, and
    what dropout leaves out in it, follow from the seed of ``pairs`` and the step's number alone.

    Where torch.distributed is initialised, each worker calls this with the same model, and computes its parts of each batch;
    all yield the same. Without dropout, the number of parts then changes the results by rounding only.

    Args:
        losses_of: the weighted losses of a batch, by name; their sum is minimised.
        resume: what ``TrainingStep.state()`` returned, on any worker.
        accumulate: number of parts into which each worker divides its share of a batch, for less memory.

    Raises:
        FloatingPointError: the loss is not finite.
        UserError: a batch has fewer pairs than parts.
    """
    prepare(model, frozen_stages=config.frozen_stages, recompute=config.activation_checkpointing)
    optimizer = optimizer_of(model, config)
    scaler = torch.amp.GradScaler(next(model.parameters()).device.type, enabled=config.precision == "fp16")
    done = 0
    if resume is not None:
        model.load_state_dict(resume["model"])
        optimizer.load_state_dict(resume["optimizer"])
        done = resume["step"]
        if scaler.is_enabled():
            scaler.load_state_dict(resume["scaler"])
    steps = total_steps(config, len(pairs))
    model.train()
    gradients = BatchGradients(model, losses_of, pairs, precision=config.precision, accumulate=accumulate)
    for step in range(done, steps):
        for group in optimizer.param_groups:
            group["lr"] = group["full_lr"] * _schedule(config, step, len(pairs))
        optimizer.zero_grad(set_to_none=True)
        losses = gradients.backward(step, scaler.scale)
        total = torch.stack(list(losses.values())).sum()
        if not torch.isfinite(total):
            raise FloatingPointError(f"the loss is {total.item()} at step {step + 1}: lower train.lr")
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm)
        scaler.step(optimizer)
        scaler.update()

        def state(step: int = step) -> dict[str, Any]:
            return {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step + 1,
                    **({"scaler": scaler.state_dict()} if scaler.is_enabled() else {})}

        yield TrainingStep(
            step=step + 1, total_steps=steps, epoch=(step + 1) / len(pairs), videos_seen=(step + 1) * pairs.batch_size,
            lr=learning_rate(config, step, len(pairs)),
            losses={name: value.item() for name, value in losses.items()} | {"total": total.item()}, state=state)


def optimizer_of(model: nn.Module, config: OptimisationConfig) -> torch.optim.AdamW:
    """AdamW whose groups hold their learning rate before the schedule as ``full_lr``."""
    return torch.optim.AdamW(_parameter_groups(model, config), weight_decay=config.weight_decay, fused=True)


def _schedule(config: OptimisationConfig, step: int, steps_per_epoch: int) -> float:
    warm = min(1.0, (step + 1) / (config.warmup_steps + 1))
    return warm * (0.1 if step >= config.lr_drop_epoch * steps_per_epoch else 1.0)


def _parameter_groups(model: nn.Module, config: OptimisationConfig) -> list[dict[str, Any]]:
    """The parameter groups, each with its learning rate before the schedule as ``full_lr``."""
    backbone, gates, others = [], [], []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if config.backbone_lr is not None and name.startswith(BACKBONE_PREFIXES):
            backbone.append(parameter)
        elif config.gate_lr is not None and name.endswith(GATE):
            gates.append(parameter)
        else:
            others.append(parameter)
    return [{"params": params, "full_lr": lr} for params, lr in (
        (backbone, config.backbone_lr), (gates, config.gate_lr), (others, config.lr)) if params]
