"""Which clips a similarity matrix confuses, and by how much."""

from dataclasses import dataclass

import numpy as np

from gmscavp.evaluation.retrieval import TIE


@dataclass(frozen=True)
class Answer:
    """What came of one query: the rank and the score of its right match, and the best of the wrong ones."""

    query: int
    rank: int
    score: float
    wrong: int
    wrong_score: float

    @property
    def margin(self) -> float:
        """By how much the best wrong match beats the right one; at -TIE or above the answer is wrong."""
        return self.wrong_score - self.score


def answers(similarity: np.ndarray) -> list[Answer]:
    """The answer to each query of a (queries, gallery) similarity whose right pairs stand on the diagonal.

    A tie counts against the right match, as in `retrieval_ranks`. Queries without a finite right score, or without any
    wrong one to lose against, are left out.
    """
    found = []
    for query in range(len(similarity) if len(similarity) > 1 else 0):
        scores = np.array(similarity[query], np.float64)
        score = scores[query]
        scores[query] = np.nan
        scores[~np.isfinite(scores)] = -np.inf
        wrong = int(scores.argmax())
        if np.isfinite(score) and np.isfinite(scores[wrong]):
            rank = 1 + int((scores >= score - TIE).sum())
            found.append(Answer(query, rank, float(score), wrong, float(scores[wrong])))
    return found


def hardest_confusions(found: list[Answer], count: int) -> list[Answer]:
    """The `count` answers in which a wrong match beats the right one by most, the worst first."""
    wrong = [answer for answer in found if answer.rank > 1]
    return sorted(wrong, key=lambda answer: -answer.margin)[:count]
