# SPDX-License-Identifier: Apache-2.0
"""Exact assignment of rows to columns, so that metrics need nothing but numpy.

Shortest augmenting paths with potentials (Jonker and Volgenant 1987), one row after the other; O(R^2 C).  Among equal
optima the choice is fixed by the order of the columns.
"""

from __future__ import annotations

import numpy as np


def assign(value: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows and columns of a largest sum, each used at most once, min(R, C) pairs in order of the rows.

    value  (R, C) finite numbers
    """
    if value.shape[0] > value.shape[1]:
        columns, rows = assign(value.T)
        order = np.argsort(rows)
        return rows[order], columns[order]
    cost = value.max(initial=0) - value.astype(np.float64)
    owner = np.full(value.shape[1], -1)  # row that has each column
    row_price, column_price = np.zeros(value.shape[0]), np.zeros(value.shape[1])
    for row in range(value.shape[0]):
        _augment(cost, row, owner, row_price, column_price)
    columns = np.flatnonzero(owner >= 0)
    order = np.argsort(owner[columns])
    return owner[columns][order], columns[order]


def _augment(cost: np.ndarray, row: int, owner: np.ndarray, row_price: np.ndarray, column_price: np.ndarray) -> None:
    """Give `row` a column along the cheapest path of exchanges; `owner` and the prices are changed in place."""
    num_columns = owner.size
    distance, before = np.full(num_columns, np.inf), np.full(num_columns, -1)
    is_done = np.zeros(num_columns, bool)
    current, last, travelled = row, -1, 0.0
    while True:
        reached = travelled + cost[current] - row_price[current] - column_price
        is_nearer = ~is_done & (reached < distance)
        distance[is_nearer], before[is_nearer] = reached[is_nearer], last
        last = int(np.where(is_done, np.inf, distance).argmin())
        travelled = distance[last]
        if owner[last] < 0:
            break
        is_done[last], current = True, owner[last]
    row_price[row] += travelled
    row_price[owner[is_done]] += travelled - distance[is_done]
    column_price[is_done] -= travelled - distance[is_done]
    while before[last] >= 0:
        owner[last] = owner[before[last]]
        last = before[last]
    owner[last] = row
