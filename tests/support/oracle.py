"""Reference numbers from the code of other authors, which lie beside the tests that use them."""

from pathlib import Path

import numpy as np


def numbers(test_file: str, name: str) -> dict[str, np.ndarray]:
    """The arrays of ``oracle_data/<name>.npz`` beside a test; its page says where they are from."""
    with np.load(Path(test_file).with_name("oracle_data") / f"{name}.npz") as arrays:
        return dict(arrays)


def near(ours, theirs: np.ndarray, limit: float = 1e-5) -> None:
    """Asserts that numbers differ by no more than this part of the value, or of the largest value."""
    ours = np.asarray(ours.detach() if hasattr(ours, "detach") else ours)
    assert ours.shape == theirs.shape
    np.testing.assert_allclose(ours, theirs, rtol=limit, atol=limit * np.abs(theirs).max())
