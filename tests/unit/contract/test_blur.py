"""Wrong pairs of a prediction fall by one law, whichever way they are drawn: the exact probabilities are counted out here."""

from collections import Counter
from functools import reduce

import numpy as np
import pytest
from scipy.stats import chisquare, multinomial

from moesim.contract import blur, blurred

WEIGHTS = np.array([5, 1, 3, 2, 0])
DRAWS = 60_000


def exact(wrong, weights):
    """Outcome -> probability of where `wrong` [E] pairs fall: a multinomial for each expert that they leave, all added up."""

    def of_source(source):
        rest = np.where(np.arange(len(weights)) == source, 0, weights)
        outcomes = [outcome for outcome in np.ndindex(*[wrong[source] + 1] * len(weights)) if sum(outcome) == wrong[source]]
        law = multinomial(wrong[source], rest / rest.sum())
        return {outcome: law.pmf(outcome) for outcome in outcomes}

    def added(left, right):
        sums = Counter()
        for outcome, chance in left.items():
            for further, further_chance in right.items():
                sums[tuple(np.add(outcome, further).tolist())] += chance * further_chance
        return sums

    return reduce(added, [of_source(source) for source in np.flatnonzero(wrong)])


@pytest.mark.parametrize("draw", [blur._pair_by_pair, blur._by_halves])
@pytest.mark.parametrize("wrong", [(1, 0, 0, 0, 0), (2, 1, 0, 0, 1), (0, 0, 1, 3, 0), (1, 1, 1, 1, 0)])
def test_wrong_pairs_fall_by_the_exact_joint_law(draw, wrong):
    drawn = draw(np.tile(wrong, (DRAWS, 1)), np.tile(WEIGHTS, (DRAWS, 1)), np.random.default_rng(7))
    counts, law = Counter(map(tuple, drawn.tolist())), exact(np.array(wrong), WEIGHTS)
    assert set(counts) <= {outcome for outcome, chance in law.items() if chance > 0}
    often = [outcome for outcome, chance in law.items() if chance * DRAWS > 5]
    observed, expected = [counts[outcome] for outcome in often], [law[outcome] * DRAWS for outcome in often]
    observed.append(DRAWS - sum(observed) + 5)
    expected.append(DRAWS - sum(expected) + 5)  # what is rare is judged as a whole, and never expected 0 times
    assert chisquare(observed, expected).pvalue > 1e-3


@pytest.mark.parametrize("tokens", [0, 16])
def test_a_whole_prediction_has_the_mean_of_its_law(monkeypatch, tokens):
    """E[seen] = recall * counts + sum over sources s of (1 - recall) * counts_s * w_e / (1 - w_s), none on its own source."""
    monkeypatch.setattr(blur, "_FEW", tokens)
    counts, recall = np.array([40, 0, 9, 1, 200, 30]), 0.7
    popularity = np.array([0.3, 0.2, 0.1, 0.05, 0.25, 0.1])
    rows = blurred(np.tile(counts, (20_000, 1)), recall, np.tile(popularity, (20_000, 1)), np.random.default_rng(5))
    leave = (1 - recall) * counts / (1 - popularity)
    expected = recall * counts + popularity * (leave.sum() - leave)
    assert (np.abs(rows.mean(axis=0) - expected) < 5 * rows.std(axis=0) / len(rows) ** 0.5).all()


def test_each_row_has_a_recall_and_a_popularity_of_its_own():
    popularity = np.array([[1.0, 1.0, 1.0, 1.0], [1.0, 0.0, 0.0, 1.0], [1.0, 1.0, 1.0, 1.0]])
    seen = blurred(np.full((3, 4), 100), np.array([1.0, 0.0, 0.5]), popularity, np.random.default_rng(2))
    assert (seen[0] == 100).all()
    assert (seen[1, 1:3] == 0).all()
    assert (seen.sum(axis=1) == 400).all()
    assert len(set(seen[2].tolist())) > 1


def test_two_experts_exchange_what_is_wrong_and_a_single_expert_keeps_all():
    rng = np.random.default_rng(0)
    assert blurred(np.array([5, 2]), 0.0, np.array([0.9, 0.1]), rng).tolist() == [2, 5]
    assert blurred(np.array([5]), 0.0, np.array([1.0]), rng).tolist() == [5]
