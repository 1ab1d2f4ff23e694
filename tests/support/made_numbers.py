"""Numbers made from a name, by integer arithmetic alone: the same on every machine, so that the inputs and weights of
reference numbers need not be stored.

Number i of a name is splitmix64's output function of i + 2**32 * CRC-32(name), of which the highest 24 bits count.
"""

import zlib

import numpy as np


def made(name: str, shape: tuple[int, ...], low: float = -1.0, high: float = 1.0) -> np.ndarray:
    """Numbers in [low, high), float32."""
    return (low + (high - low) * _shares(name, shape)).astype(np.float32)


def made_whole(name: str, shape: tuple[int, ...], low: int, high: int) -> np.ndarray:
    """Whole numbers from ``low`` to ``high - 1``, int64."""
    return low + np.floor((high - low) * _shares(name, shape)).astype(np.int64)


def _shares(name: str, shape: tuple[int, ...]) -> np.ndarray:
    bits = np.arange(int(np.prod(shape)), dtype=np.uint64) + (np.uint64(zlib.crc32(name.encode())) << np.uint64(32))
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        bits = (bits ^ (bits >> np.uint64(shift))) * np.uint64(factor)
    bits ^= bits >> np.uint64(31)
    return ((bits >> np.uint64(40)).astype(np.float64) / 2**24).reshape(shape)
