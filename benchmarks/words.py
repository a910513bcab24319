"""What counting words knows of a preference: tf-idf and length, logistic regression on differences of answers."""

import re
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
from scipy import optimize, sparse, special

Texts = Sequence[tuple[str, str]]
"""Chosen and rejected answers."""


def words(text: str) -> list[str]:
    return re.findall(r"\w+|[^\w\s]", text.lower())


def length_gap(pairs: Texts) -> np.ndarray:
    """Log of the ratio of lengths, in words: [N, 1]."""
    return np.array([[np.log1p(len(words(chosen))) - np.log1p(len(words(rejected)))] for chosen, rejected in pairs])


def word_margins(
    train: Texts, test: Texts, *, length: bool = True, tokens: Callable[[str], Sequence[object]] = words
) -> np.ndarray:
    """Log-odds that the test pairs' chosen answers were chosen, learnt on the training pairs: [N]."""
    documents = [Counter(tokens(text)) for pair in train for text in pair]
    frequency = Counter(word for document in documents for word in document)
    known = {word: i for i, word in enumerate(w for w, n in frequency.items() if n > 1)}
    rarity = np.array([1 + np.log((1 + len(documents)) / (1 + frequency[word])) for word in known])

    def features(pairs: Texts) -> sparse.csr_array:
        rows, columns, values = [], [], []
        for number, text in enumerate(text for pair in pairs for text in pair):
            for word, count in Counter(tokens(text)).items():
                if word in known:
                    rows.append(number)
                    columns.append(known[word])
                    values.append((1 + np.log(count)) * rarity[known[word]])
        counted = sparse.csr_array((values, (rows, columns)), shape=(2 * len(pairs), len(known)))
        size = np.sqrt(counted.power(2).sum(1))
        scaled = sparse.diags_array(1 / np.where(size > 0, size, 1)) @ counted
        numbers = np.arange(0, 2 * len(pairs), 2)
        gap = scaled[numbers] - scaled[numbers + 1]
        return sparse.hstack([gap, sparse.csr_array(length_gap(pairs))], "csr") if length else gap

    return features(test) @ logistic(features(train))


def logistic(gaps: np.ndarray | sparse.csr_array, *, penalty: float = 1.0) -> np.ndarray:
    """Weights of the difference of features that explain why each first answer was preferred: [D]."""

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        margins = gaps @ weights
        value = np.logaddexp(0, -margins).sum() + penalty / 2 * weights @ weights
        return float(value), penalty * weights - gaps.T @ special.expit(-margins)

    start = np.zeros(gaps.shape[1])
    return optimize.minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 500}).x
