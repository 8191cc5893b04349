"""Pictures against pictures: every matched pair scored by one protocol."""

from __future__ import annotations

from collections.abc import Iterator

from sparsedit.errors import InputError
from sparsedit.metrics.comparison import Case, Comparison
from sparsedit.metrics.folders import Matched, NamedPair
from sparsedit.metrics.scorer import BATCH, Pair, Scorer


def compare_pictures(matched: Matched, scorer: Scorer) -> Comparison:
    """The scores of all pairs. Of several, one that cannot be scored is a case with its reason; a lone one raises."""
    return Comparison(
        what=f"protocol {scorer.protocol.name}",
        columns=scorer.columns,
        cases=tuple(_cases(matched.pairs, scorer)),
        missing=scorer.missing,
        only_a=matched.only_a,
        only_b=matched.only_b,
    )


def _cases(pairs: tuple[NamedPair, ...], scorer: Scorer) -> Iterator[Case]:
    for start in range(0, len(pairs), BATCH):
        some = pairs[start : start + BATCH]
        opened: list[tuple[NamedPair, Pair | str]] = [
            (one, _opened(one, scorer, alone=len(pairs) == 1)) for one in some
        ]
        scored = scorer.score_all([pair for _, pair in opened if isinstance(pair, Pair)])
        for named, pair in opened:
            if isinstance(pair, str):
                yield Case(named.name, edit_type=named.edit_type, reason=pair)
                continue
            scores = next(scored)
            yield Case(
                named.name,
                scores.values,
                named.edit_type,
                identical=scores.identical,
                equal=scores.equal,
                missing=scores.missing,
                entry={"protocol": scores.protocol},
            )


def _opened(named: NamedPair, scorer: Scorer, *, alone: bool) -> Pair | str:
    try:
        pair = named.load()
        scorer.check(pair)
    except InputError as error:
        if alone:
            raise
        return str(error)
    return pair
