"""Every model's quality as a function of the prompt, from a table of scores with or without gaps."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from routellm_core.training.additive import Amplitudes, Blocks, fit_amplitudes, predict, solve

__all__ = ["Qualities"]

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]


class Qualities:
    """Fits to any of the rows.

    Without gaps all models are fitted at once, and what explains the differences between them sets the amplitudes.
    With gaps there may be no prompt that two models have answered: each model is fitted on its own rows, and the
    amplitudes are those of the model with the most of them.

    Args:
        blocks: Features of the prompts.
        table: Scores, shape (n, M); NaN where not known.
        pair: Columns of the strong and the weak model.

    Attributes:
        known: Which scores are, shape (n, M).
        is_complete: All are.
        contrasts: Scores less the prompt's mean, or of two models their difference, shape (n, M) or (n, 1).
        mean: Of each model's known scores, shape (M,).
    """

    def __init__(self, blocks: Blocks, table: Floats, pair: tuple[int, int]) -> None:
        self.blocks, self.table = blocks, table
        self.known = np.isfinite(table)
        self.is_complete = bool(self.known.all())
        s, w = pair
        two = table.shape[1] == 2
        self.contrasts = table[:, [s]] - table[:, [w]] if two else table - table.mean(axis=1, keepdims=True)
        if self.is_complete:
            self.mean: Floats = table.mean(axis=0)
        else:
            own = [table[self.known[:, m], m] for m in range(table.shape[1])]
            self.mean = np.array([column.mean() for column in own])
            # scores that are all the same say nothing of what explains them
            self._most = int(np.argmax([len(column) if np.ptp(column) > 0 else 0 for column in own]))

    def amplitudes(
        self, rng: np.random.Generator, rows: Rows | None = None, start: Amplitudes | None = None, steps: int = 25
    ) -> Amplitudes:
        """What each block says, fitted on these rows (None: on all), see `fit_amplitudes`."""
        if self.is_complete:
            labels = self.contrasts if rows is None else self.contrasts[rows]
        else:
            rows = self._rows_of(self._most, rows)
            if start is not None and len(rows) < 2:
                return start
            labels = self.table[rows][:, [self._most]]
        blocks = self.blocks if rows is None else self.blocks.take(rows)
        return fit_amplitudes(blocks, labels - labels.mean(axis=0), rng=rng, start=start, steps=steps)

    def weights(self, amplitudes: Amplitudes, rows: Rows | None = None) -> list[Floats]:
        """Of each block, shape (d_b, M): of the quality less the mean of the model's scores in these rows."""
        if self.is_complete:
            table = self.table if rows is None else self.table[rows]
            blocks = self.blocks if rows is None else self.blocks.take(rows)
            return solve(blocks, table - table.mean(axis=0), amplitudes)
        columns = []
        for m in range(self.table.shape[1]):
            own = self._rows_of(m, rows)
            if len(own):
                labels = self.table[own][:, [m]]
                columns.append(solve(self.blocks.take(own), labels - labels.mean(axis=0), amplitudes))
            else:  # all its scores are in the fold that is left out
                columns.append([np.zeros((matrix.shape[1], 1)) for matrix in self.blocks.matrices])
        return [np.concatenate(of_block, axis=1) for of_block in zip(*columns, strict=True)]

    def predicted(self, test: Rows, rows: Rows, start: Amplitudes, rng: np.random.Generator) -> Floats:
        """Quality of every model less its mean, for the test rows by a fit to the others, shape (len(test), M).

        The amplitudes are fitted anew, beginning where those of all rows are.
        """
        weights = self.weights(self.amplitudes(rng, rows, start, steps=8), rows)
        return predict(self.blocks.take(test), weights)

    def mean_of(self, rows: Rows) -> Floats:
        """What predictions by a fit to these rows are about, shape (M,).

        With gaps the mean of all known scores: a fold's own hangs on how many of them it happens to hold.
        """
        mean: Floats = self.table[rows].mean(axis=0) if self.is_complete else self.mean
        return mean

    def _rows_of(self, model: int, rows: Rows | None) -> Rows:
        known = self.known[:, model]
        return np.flatnonzero(known) if rows is None else rows[known[rows]]
