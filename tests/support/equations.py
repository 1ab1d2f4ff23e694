"""Sec. 3 of the paper as loops over tracklets, frames and locations, written from its sentences and not from the code."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np

# What Eq. 3 calls conv2d with the filter of a query: (C,) and (P, C) to (P, C).
Convolution = Callable[[np.ndarray, np.ndarray], np.ndarray]


def over_time(attend: Callable[[np.ndarray], np.ndarray], query_NTC: np.ndarray) -> np.ndarray:
    """Eq. 1: the T embeddings of each tracklet attend to each other; ``attend``: (L, C) to (L, C)."""
    found = query_NTC.copy()
    for i in range(query_NTC.shape[0]):
        found[i] = attend(query_NTC[i])
    return found


def over_instances(attend: Callable[[np.ndarray], np.ndarray], query_NTC: np.ndarray) -> np.ndarray:
    """Eq. 2: the N embeddings of each frame attend to each other."""
    found = query_NTC.copy()
    for t in range(query_NTC.shape[1]):
        found[:, t] = attend(query_NTC[:, t])
    return found


def tracklet_feature(
    convolve: Convolution, query_TC: np.ndarray, region: Callable[[int, int], np.ndarray], temperature: float = 1.0
) -> np.ndarray:
    """Eq. 3: (T, P, C). ``region(t, u)``: frame u's features, cropped as frame t looks at them."""
    last = len(query_TC) - 1
    features = []
    for t, query in enumerate(query_TC):
        outputs = [convolve(query, region(t, u)) for u in range(max(t - 1, 0), min(t + 1, last) + 1)]
        own = convolve(query, region(t, t))
        feature = np.zeros_like(own)
        for p in range(len(own)):
            weights = [math.exp(cosine(own[p], output[p]) / temperature) for output in outputs]
            for weight, output in zip(weights, outputs, strict=True):
                feature[p] += weight / sum(weights) * output[p]
        features.append(feature)
    return np.stack(features)


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    length = math.sqrt(float(a @ a) * float(b @ b))
    return float(a @ b) / length if length else 0.0


def matching_cost(
    present_KT: np.ndarray, tracklets: int, seen: Callable[[int, int, int], float], absent: Callable[[int, int, int], float]
) -> np.ndarray:
    """Eq. 4's sum over frames: ``seen(n, k, t)`` where instance k is present, ``absent(n, k, t)`` where it is not."""
    cost = np.zeros((tracklets, len(present_KT)))
    for n in range(tracklets):
        for k, t in np.ndindex(present_KT.shape):
            cost[n, k] += seen(n, k, t) if present_KT[k, t] else absent(n, k, t)
    return cost


def assignment(cost_NK: np.ndarray, known: Sequence[int | None] | None = None) -> list[int | None]:
    """The cheapest of all assignments that keep the known tracklets: each instance's tracklet, or None if none is left."""
    tracklets, instances = cost_NK.shape
    best = list(known) if known is not None else [None] * instances
    free = [n for n in range(tracklets) if n not in best]
    new = [k for k in range(instances) if best[k] is None]
    few, many = sorted((free, new), key=len)
    pairings = ([(n, k) if few is free else (k, n) for n, k in zip(few, chosen, strict=True)]
                for chosen in itertools.permutations(many, len(few)))
    for n, k in min(pairings, key=lambda pairs: sum(cost_NK[n, k] for n, k in pairs)):
        best[k] = n
    return best


def clip_sums(
    owner_K: Sequence[int | None], present_KT: np.ndarray, everywhere: Callable[[int, int, int | None], dict[str, float]],
    where_present: Callable[[int, int, int], dict[str, float]],
) -> dict[str, float]:
    """Eq. 5's sums over the entries of the matched tracklets, before the average.

    Args:
        everywhere: (n, t, k) -> the losses that every frame has; k is None where the instance is absent.
        where_present: (n, t, k) -> the losses of frames with the instance.
    """
    sums: dict[str, float] = {}
    for k, t in np.ndindex(present_KT.shape):
        if owner_K[k] is None:
            continue
        here = bool(present_KT[k, t])
        losses = everywhere(owner_K[k], t, k if here else None) | (where_present(owner_K[k], t, k) if here else {})
        for name, value in losses.items():
            sums[name] = sums.get(name, 0.0) + value
    return sums


def mean_over_time(query_NTC: np.ndarray, frames: int) -> np.ndarray:
    """Sec. 3.3: what the embeddings of the next clip's frames start from: (N, frames, C)."""
    return np.stack([[sum(query_TC) / len(query_TC)] * frames for query_TC in query_NTC])
