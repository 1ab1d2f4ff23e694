"""Lifting run-length counts out of JSON must change nothing but their type."""

import json

import numpy as np
import pytest

from effvis.evaluation import rle_json


def as_lists(value):
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, dict):
        return {key: as_lists(one) for key, one in value.items()}
    return [as_lists(one) for one in value] if isinstance(value, list) else value


def masks(count):
    rng = np.random.default_rng(0)
    return [None if i % 7 == 0 else {"counts": rng.integers(0, 10 ** rng.integers(1, 10), rng.integers(1, 50)).tolist(),
                                     "size": [3, 4]} for i in range(count)]


@pytest.mark.parametrize("layout", [{}, {"separators": (",", ":")}, {"indent": 2}, {"sort_keys": True}])
def test_same_content_in_every_layout(layout):
    data = {"score": float("inf"), "annotations": [{"segmentations": masks(300)}], "note": 'a "counts": [1,2] in words'}
    found = rle_json.loads(json.dumps(data, **layout).encode())
    assert as_lists(found) == data
    assert all(isinstance(mask["counts"], np.ndarray) for mask in found["annotations"][0]["segmentations"] if mask)


@pytest.mark.parametrize("text", [
    '{"counts": [1, -2, 3]}',
    '{"counts": [1.5, 2]}',
    '{"counts": []}',
    '{"counts": [[1, 2]]}',
    '{"counts": "PQR"}',
    '{"counts": [1, 123456789012]}',
    '{"counts": [1, 2], "score": -Infinity}',
    '{"counts": [ 0 ]}',
    '[]',
])  # fmt: skip
def test_unusual_content(text):
    assert as_lists(rle_json.loads(text.encode())) == json.loads(text)


@pytest.mark.parametrize("text", ['{"counts": [1 2]}', '{"counts": [1,,2]}', '{"counts": [1,2,]}', '{"counts": [1,2]', ""])
def test_what_is_no_json_is_refused_where_json_refuses_it(text):
    with pytest.raises(json.JSONDecodeError) as expected:
        json.loads(text)
    with pytest.raises(json.JSONDecodeError) as error:
        rle_json.loads(text.encode())
    assert error.value.pos == expected.value.pos
