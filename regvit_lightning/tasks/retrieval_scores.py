"""Scores of rankings by the revisited Oxford and Paris protocol: average precision and precision at k, junk left out.

Source: Radenović et al. 2018 (arXiv 1803.11285), sections 2.3 and 4.1. An image that is junk for a query is taken out
of its ranking. Average precision is the area under precision over recall by the trapezoidal rule, as in the original
Oxford and Paris sets (Philbin et al. 2007).
"""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from regvit_lightning.data.retrieval import Query

Indices = npt.NDArray[np.int64]
LEVELS = {  # what counts as found, and what is taken out of the ranking
    "easy": (("easy",), ("junk", "hard")),
    "medium": (("easy", "hard"), ("junk",)),
    "hard": (("hard",), ("junk", "easy")),
}
DEPTHS = (1, 5, 10)  # k of the precision at k


def average_precision(ranks: Indices, relevant: int) -> float:
    """Area under precision over recall, in 0..1.

    Args:
        ranks: ascending ranks from 0 of the relevant images, without junk.
        relevant: number of relevant images, at least one.
    """
    found = np.arange(len(ranks))
    before = np.where(ranks > 0, found / np.maximum(ranks, 1), 1.0)  # an empty ranking has precision 1
    after = (found + 1) / (ranks + 1)
    return float((before + after).sum() / 2 / relevant)


def precision_at(ranks: Indices, k: int) -> float:
    """Share of relevant images among the first k, or among those down to the last relevant one where that is nearer.

    Args:
        ranks: as for `average_precision`, at least one.
    """
    nearest = min(int(ranks[-1]) + 1, k)
    return float((ranks < nearest).sum()) / nearest


def ranks_of(ranking: Indices, relevant: Indices, junk: Indices) -> Indices:
    """Ascending ranks from 0 of the relevant images in a ranking (N,) of indices without its junk."""
    left = ranking[~np.isin(ranking, junk)]
    return np.flatnonzero(np.isin(left, relevant))


def graded(ranking: Indices, query: Query) -> dict[str, float]:
    """Scores of one query in percent: `map_<level>` and `mp<k>_<level>`; NaN at a level without a relevant image.

    Args:
        ranking: (N,) indices of all images, the most similar first.
    """
    scores: dict[str, float] = {}
    for level, (wanted, out) in LEVELS.items():
        relevant = np.concatenate([getattr(query, grade) for grade in wanted])
        ranks = ranks_of(ranking, relevant, np.concatenate([getattr(query, grade) for grade in out]))
        known = len(relevant) > 0
        scores[f"map_{level}"] = 100 * average_precision(ranks, len(relevant)) if known else np.nan
        scores |= {f"mp{k}_{level}": 100 * precision_at(ranks, k) if known else np.nan for k in DEPTHS}
    return scores


def means(scores: Mapping[str, npt.NDArray[np.float64]]) -> dict[str, float]:
    """Mean of each metric over the queries (Q,) that have a relevant image; metrics that no query has are left out."""
    return {name: float(np.nanmean(values)) for name, values in scores.items() if not np.isnan(values).all()}
