"""The bird's-eye-view grid: range, cell size and the conversion between metres and cells."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from perception.errors import PerceptionError


@dataclass(frozen=True)
class BEVGrid:
    """A regular grid in the ego frame, x along columns and y along rows.

    A BEV tensor is [B, C, rows, columns]: cell (row, column) covers x in [x_min_m + column * cell, ... + cell), and y
    likewise by row. The flat index of a cell is ``row * columns + column``.
    """

    x_min_m: float
    x_max_m: float
    y_min_m: float
    y_max_m: float
    z_min_m: float
    z_max_m: float
    cell_size_m: float

    def __post_init__(self):
        if not all(math.isfinite(value) for value in vars(self).values()):
            raise PerceptionError(f"grid: finite numbers were expected, found {self}")
        if not (self.x_max_m > self.x_min_m and self.y_max_m > self.y_min_m and self.z_max_m > self.z_min_m):
            raise PerceptionError(f"grid: every max must exceed its min, found {self}")
        if self.cell_size_m <= 0:
            raise PerceptionError(f"grid: cell_size_m must be positive, found {self.cell_size_m}")
        for name, extent in (("x", self.x_max_m - self.x_min_m), ("y", self.y_max_m - self.y_min_m)):
            cells = extent / self.cell_size_m
            if abs(cells - round(cells)) > 1e-6:
                raise PerceptionError(
                    f"grid: the {name} extent {extent} m is not a whole number of {self.cell_size_m} m cells"
                )

    @property
    def columns(self) -> int:
        return round((self.x_max_m - self.x_min_m) / self.cell_size_m)

    @property
    def rows(self) -> int:
        return round((self.y_max_m - self.y_min_m) / self.cell_size_m)

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns)."""
        return self.rows, self.columns

    @property
    def cells(self) -> int:
        return self.rows * self.columns

    def with_cell_size(self, cell_size_m: float) -> BEVGrid:
        """The same region with finer or coarser cells."""
        return BEVGrid(self.x_min_m, self.x_max_m, self.y_min_m, self.y_max_m, self.z_min_m, self.z_max_m, cell_size_m)

    def to_cells(self, x, y):
        """Metres -> continuous (column, row); the centre of cell (0, 0) is at (0.5, 0.5). For arrays and tensors."""
        return (x - self.x_min_m) / self.cell_size_m, (y - self.y_min_m) / self.cell_size_m

    def to_metres(self, column, row):
        """The inverse of :meth:`to_cells`."""
        return column * self.cell_size_m + self.x_min_m, row * self.cell_size_m + self.y_min_m

    def cell_index(self, x, y):
        """Metres inside the grid -> integer (column, row), as int64 arrays or tensors.

        Rounding may map a position just below the upper bound to the number of cells; it is clipped to the last cell.
        """
        column, row = self.to_cells(x, y)
        if isinstance(column, np.ndarray):
            column, row = column.astype(np.int64), row.astype(np.int64)
        else:
            column, row = column.long(), row.long()
        return column.clip(max=self.columns - 1), row.clip(max=self.rows - 1)

    def contains(self, x, y):
        """Whether ground positions lie in the grid (upper bounds excluded)."""
        return (x >= self.x_min_m) & (x < self.x_max_m) & (y >= self.y_min_m) & (y < self.y_max_m)
