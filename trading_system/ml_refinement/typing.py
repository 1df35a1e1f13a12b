"""The arrays of the library, by what their elements are. Shapes are said where an array is taken or given."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]
IntArray = NDArray[np.int64]
StringArray = NDArray[np.str_]
#: Positions of rows or columns in another array.
IndexArray = NDArray[np.intp]
#: Instants, in microseconds since 1970-01-01 UTC.
TimeArray = NDArray[np.int64]
#: Elements of whatever type a model's target has.
AnyArray = NDArray[Any]
