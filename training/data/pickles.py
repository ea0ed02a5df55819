"""Pickles of arrays of numbers, which two data sets come in, read with an allowlist of what they may name.

The only pickles read are downloads whose checksums are known; `pickle.load`, which calls whatever a pickle names, is
never used.
"""

from __future__ import annotations

import io
import pickle
from typing import Any

import numpy as np

from training.data.dataset import DatasetError

__all__ = ["read_pickle"]

ALLOWED: dict[str, Any] = {
    "ndarray": np.ndarray,
    "dtype": np.dtype,
    "_reconstruct": np.zeros(0).__reduce__()[0],
    "scalar": np.float64(0).__reduce__()[0],
    "_frombuffer": np.zeros(1).__reduce_ex__(5)[0],
    "encode": lambda text, encoding: text.encode({"latin1": "latin1"}[encoding]),  # how Python 3 writes bytes
}
MODULES = {"numpy", "_codecs"} | {
    f"numpy.{core}.{module}" for core in ("core", "_core") for module in ("multiarray", "numeric")
}


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if module not in MODULES or name not in ALLOWED:
            raise pickle.UnpicklingError(f"it names {f'{module}.{name}'!r}, which is not part of an array of numbers")
        return ALLOWED[name]


def read_pickle(content: bytes, what: str) -> Any:
    """Lists, tuples, dicts, strings, numbers and arrays, from pickles of Python 2 and 3.

    Raises `DatasetError`, which begins with `what`, if the pickle is damaged or names anything else.
    """
    try:
        return _ArrayUnpickler(io.BytesIO(content), encoding="latin1").load()
    except Exception as error:  # a damaged pickle raises many types
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DatasetError(f"{what} cannot be read as a pickle of arrays: {reason}") from error
