"""The grid: cell borders by hand, round trips, and extents that do not divide."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perception.config import GridConfig
from perception.errors import PerceptionError
from perception.grid import BEVGrid

GRID = BEVGrid(x_min_m=-10.0, x_max_m=30.0, y_min_m=-20.0, y_max_m=20.0, z_min_m=-5.0, z_max_m=3.0, cell_size_m=0.5)


def test_rows_follow_y_and_columns_follow_x():
    grid = BEVGrid(x_min_m=0.0, x_max_m=3.0, y_min_m=-1.0, y_max_m=1.0, z_min_m=-5.0, z_max_m=3.0, cell_size_m=0.5)
    assert (grid.columns, grid.rows, grid.shape, grid.cells) == (6, 4, (4, 6), 24)
    assert grid.to_cells(0.25, -0.75) == (0.5, 0.5)
    assert grid.to_metres(6, 4) == (3.0, 1.0)


def test_default_is_128_by_128():
    assert BEVGrid(**vars(GridConfig())).shape == (128, 128)


@given(st.floats(-100.0, 100.0), st.floats(-100.0, 100.0))
def test_metres_to_cells_and_back(x, y):
    column, row = GRID.to_cells(x, y)
    assert np.allclose(GRID.to_metres(column, row), (x, y), atol=1e-9)
    assert GRID.contains(x, y) == (0 <= column < GRID.columns and 0 <= row < GRID.rows)


def test_upper_bounds_are_outside():
    assert GRID.contains(np.array([-10.0, 30.0, 0.0]), np.array([-20.0, 0.0, 20.0])).tolist() == [True, False, False]


def test_finer_cells_cover_the_same_region():
    fine = GRID.with_cell_size(0.25)
    assert fine.shape == (160, 160)
    assert (fine.x_min_m, fine.z_max_m) == (GRID.x_min_m, GRID.z_max_m)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x_max_m": -10.0}, "exceed"),
        ({"cell_size_m": 0.0}, "cell_size_m"),
        ({"cell_size_m": 0.7}, "x extent.*0.7"),
        ({"y_max_m": 20.1}, "y extent"),
    ],
)
def test_impossible_grids_are_refused(changes, message):
    with pytest.raises(PerceptionError, match=message):
        BEVGrid(
            **{
                "x_min_m": -10.0,
                "x_max_m": 30.0,
                "y_min_m": -20.0,
                "y_max_m": 20.0,
                "z_min_m": -5.0,
                "z_max_m": 3.0,
                "cell_size_m": 0.5,
                **changes,
            }
        )
