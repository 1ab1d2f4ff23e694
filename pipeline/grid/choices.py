"""The learning rates and the presence threshold that were chosen for the rows of a family (docs/search.md).

A family is a method at one of the paper's clip lengths on one data set. Its rows share one choice, so that none is tuned
better than the one that it is compared with.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from effvis.errors import UserError
from pipeline import methods
from pipeline.grid.choice_file import DIGITS, Data, file_of, read
from pipeline.indexing.read import dataset_facts
from pipeline.settings.loading import with_values
from pipeline.settings.params import RowSettings

if TYPE_CHECKING:
    from pipeline.grid.table_file import Row
    from pipeline.settings.params import Params

_RATES = ("lr", "backbone_lr", "gate_lr")


def rates(params: Params, method: str) -> dict[str, float]:
    """All learning rates of a method's training by dotted key. Those that follow from another one (null) are left out."""
    train = params.of_method(method).train
    found = {f"{methods.get(method).prefix}train.{name}": getattr(train, name, None) for name in _RATES}
    return {key: rate for key, rate in found.items() if rate is not None}


def threshold(params: Params, method: str) -> dict[str, float]:
    """A method's presence threshold by the dotted key that sets it for this method alone."""
    own = getattr(params.of_method(method), "inference", None)
    prefix = methods.get(method).prefix if hasattr(own, "presence_threshold") else ""
    return {f"{prefix}inference.presence_threshold": params.inference_of(method).presence_threshold}


def _given_rates(params: Params, method: str) -> list[str]:
    return [key for name in _RATES if params.gives(key := f"{methods.get(method).prefix}train.{name}")]


def _given_threshold(params: Params, method: str) -> list[str]:
    (key,) = threshold(params, method)
    own = getattr(getattr(params.of_method(method), "inference", None), "presence_threshold", None)
    keys = dict.fromkeys([key] if own is not None else [key, "inference.presence_threshold"])  # null: the shared one counts
    return [one for one in keys if params.gives(one)]


def data_of(params: Params) -> Data:
    """The data that choices are made on.

    Raises:
        UserError: the data set is not indexed.
    """
    digests = dataset_facts(params).digests
    return Data(name=params.dataset_name, train=digests["train"][:DIGITS], val=digests["val"][:DIGITS])


def applied(params: Params, settings: RowSettings) -> Params:
    """The parameters of a row with what was chosen for its family; what the user or the row sets counts more.

    Args:
        params: with the row's data set and the parameters that it sets.

    Raises:
        UserError: the file of choices is wrong, or the data set is not indexed.
    """
    return with_values(params, taken(params, settings), where=file_of(params), prefix="families.chosen")


def taken(params: Params, settings: RowSettings) -> dict[str, float]:
    """The values that ``applied`` sets, with its arguments and errors."""
    return _decide(params, settings)[0]


def explain(params: Params, rows: Iterable[Row]) -> tuple[list[str], list[str]]:
    """What was chosen for the families of these rows, and warnings about choices that do not count; a line each.

    Raises:
        UserError: for the reasons of ``applied``.
    """
    told: dict[str, None] = {}
    warned: dict[str, None] = {}
    for row in rows:
        settings = RowSettings(**row.set)
        if row.not_run is not None or settings.weights is not None:
            continue
        of_row = with_values(params.with_dataset(settings.dataset), settings.params, where=row.table, prefix="set.params")
        values, problem = _decide(of_row, settings)
        name = f"{settings.method} at T={settings.T} on {of_row.dataset_name}"
        if values:
            now = {**rates(of_row, settings.method), **threshold(of_row, settings.method)}
            told[f"chosen for {name}: " + ", ".join(f"{key} {value:g} (profile: {now[key]:g})" for key, value in values.items())
                 + f" ({file_of(params).relative_to(params.root)})"] = None
        if problem:
            warned[f"{name}: the choice in {file_of(params)} {problem}, and the profile's values are used. To choose again: "
                   f"python -m pipeline.tune --choose {row.table} --methods {settings.method}"] = None
    return list(told), list(warned)


def _decide(params: Params, settings: RowSettings) -> tuple[dict[str, float], str]:
    """What a row takes from the choice of its family, and why it does not take what it might, or an empty text."""
    of_family = [one for one in read(params).families if (one.method, one.T) == (settings.method, settings.T)]
    if not of_family:
        return {}, ""
    now = data_of(params)
    choice = next((one for one in of_family if (one.data.train, one.data.val) == (now.train, now.val)), None)
    if choice is None:
        return {}, f"was made on other data ({', '.join(one.data.name for one in of_family)})"
    values, changed = {}, []
    method = settings.method
    for own, by_hand in ((rates(params, method), _given_rates(params, method)),
                         (threshold(params, method), _given_threshold(params, method))):
        if by_hand:
            continue
        changed += [key for key, value in own.items() if choice.instead_of.get(key) != value]
        values |= {key: choice.chosen[key] for key in own if key in choice.chosen}
    if changed:
        return {}, f"was made when the profile had other values of {', '.join(changed)}"
    return values, ""


def check_free(params: Params, method: str) -> None:
    """Refuses to choose for a method what nobody would take.

    Raises:
        UserError: the user sets what is to be chosen: no row would take the choice.
    """
    for key in (*_given_rates(params, method), *_given_threshold(params, method)):
        raise UserError("params.yaml, -S or a row", key, "is set by hand, which counts more than a choice",
                        "Remove it, or leave this method out with --methods")


def scaled(values: Mapping[str, float], factor: float) -> dict[str, float]:
    """Rates times a factor, to six digits, so that 3e-4 times 2 is 6e-4."""
    return {key: float(f"{value * factor:.6g}") for key, value in values.items()}
