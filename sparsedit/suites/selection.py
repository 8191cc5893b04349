"""Which edits of a suite are run: `--types`, `--ids`, `--limit`, as a function of the suite and nothing else."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Collection, Sequence
from typing import Protocol, TypeVar

from sparsedit.errors import InputError, did_you_mean
from sparsedit.suites.item import EDIT_TYPES

EditType = int | str | None
"""PIE-Bench's number of a type, or its name; None where a suite does not say."""


class Selectable(Protocol):
    """Whatever has an id and a type."""

    @property
    def id(self) -> str: ...

    @property
    def edit_type(self) -> EditType: ...


Item = TypeVar("Item", bound=Selectable)


def select(
    items: Sequence[Item],
    *,
    types: Collection[EditType] = (),
    ids: Collection[str] = (),
    limit: int | None = None,
    seed: int = 0,
) -> list[Item]:
    """The items of these types and ids (none given: all), in their order, at most `limit` of them.

    A limit takes from every type its share, and one of each type before two of any. Which ones are taken depends on
    `seed` and the items' ids, and a higher limit keeps what a lower one took. Raises InputError for a limit below 1,
    for an id that is not there and for a type that no item has.
    """
    _check_types(types, items)
    _check_ids(ids, items)
    if limit is not None and limit < 1:
        raise InputError(f"The limit must be at least 1, not {limit}.")
    chosen = [item for item in items if (not types or item.edit_type in types) and (not ids or item.id in ids)]
    if limit is None or limit >= len(chosen):
        return chosen
    turns = _turns(chosen, seed)
    taken = set(sorted(turns, key=turns.__getitem__)[:limit])
    return [item for item in chosen if item.id in taken]


def _turns(items: Sequence[Selectable], seed: int) -> dict[str, tuple[float, bytes]]:
    """When each id is taken: the share of its type that goes before it, then by lot."""
    lots = {item.id: hashlib.sha256(f"{seed}:{item.id}".encode()).digest() for item in items}
    by_type: dict[EditType, list[str]] = defaultdict(list)
    for item in items:
        by_type[item.edit_type].append(item.id)
    return {
        name: (place / len(names), lots[name])
        for names in by_type.values()
        for place, name in enumerate(sorted(names, key=lots.__getitem__))
    }


def _check_types(types: Collection[EditType], items: Sequence[Selectable]) -> None:
    there = sorted({item.edit_type for item in items if item.edit_type is not None}, key=str)
    for kind in types:
        if kind not in there:
            known = ", ".join(f"{each} ({EDIT_TYPES[each]})" if isinstance(each, int) else each for each in there)
            raise InputError(f"No edit of this suite is of type {kind}; there are {known or 'none'}.")


def _check_ids(ids: Collection[str], items: Sequence[Selectable]) -> None:
    there = {item.id for item in items}
    for name in ids:
        if name not in there:
            raise InputError(f"No edit of this suite has the id {name!r}{did_you_mean(name, there) or '.'}")
