"""Pickles of plain data and of arrays of numbers, read without running anything they name.

A pickle is a program: it names functions and what to call them with. Here the few names that arrays and numbers of
NumPy come with lead to functions of this module, which build arrays and nothing else, and any other name is refused.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.data.splits import DatasetError

__all__ = ["read_pickle"]

NUMBERS = frozenset({"b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"})


def read_pickle(content: bytes, what: str) -> Any:
    """Lists, tuples, dicts, strings, numbers and arrays of numbers, of Python 2's pickles as well as Python 3's.

    Raises `DatasetError`, which begins with `what`, if the pickle is damaged or names anything else.
    """
    try:
        return _Reader(io.BytesIO(content), encoding="latin1").load()
    except DatasetError as error:
        raise DatasetError(f"{what} is refused: {error}") from error
    except Exception as error:  # a damaged pickle raises whatever its broken program stumbles over
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DatasetError(f"{what} cannot be read as a pickle: {reason}") from error


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in KNOWN:
            path = f"{module}.{name}"
            raise DatasetError(f"it names {path!r}, which is not part of an array of numbers")
        return KNOWN[module, name]


class _Type:
    """In place of `numpy.dtype`: a type of numbers, and after its state has been set its byte order."""

    def __init__(self, code: str, *_flags: object) -> None:
        if code not in NUMBERS:
            raise DatasetError(f"it has an array of type {code!r}, which is not a type of numbers")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.dtype = self.dtype.newbyteorder(state[1])


class _Array(np.ndarray[Any, np.dtype[Any]]):
    """In place of `numpy.ndarray`: empty until its state is set, which is where it learns its type from a `_Type`.

    NumPy itself would believe the state of a forged `numpy.dtype` that the bytes are addresses of objects.
    """

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        version, shape, kind, fortran_order, content = state
        super().__setstate__((version, shape, kind.dtype, fortran_order, content))


def _reconstruct(*_: object) -> _Array:
    """In place of NumPy's: the array to which `_Array.__setstate__` gives a shape, a type and content."""
    return _Array(0, np.uint8)


def _from_buffer(content: bytes, kind: _Type, shape: tuple[int, ...], order: Any) -> NDArray[Any]:
    """In place of NumPy's, which protocol 5 names."""
    return np.frombuffer(content, kind.dtype).reshape(shape, order=order).copy()


def _scalar(kind: _Type, content: bytes | str) -> Any:
    """In place of NumPy's; a string is what Python 2 had for bytes."""
    return np.frombuffer(content.encode("latin1") if isinstance(content, str) else content, kind.dtype)[0]


def _encode(text: str, encoding: str) -> bytes:
    """In place of `codecs.encode`, with which Python 3 writes bytes at protocols 0 to 2."""
    if encoding != "latin1":
        raise DatasetError(f"it encodes text as {encoding!r}")
    return text.encode("latin1")


KNOWN: Mapping[tuple[str, str], object] = {
    ("numpy", "ndarray"): None,  # only ever an argument, which `_reconstruct` does not need
    ("numpy", "dtype"): _Type,
    ("_codecs", "encode"): _encode,
    **{
        (f"numpy.{core}.{module}", name): function
        for core in ("core", "_core")  # before NumPy 2 and since
        for module, name, function in (
            ("multiarray", "_reconstruct", _reconstruct),
            ("multiarray", "scalar", _scalar),
            ("numeric", "_frombuffer", _from_buffer),
        )
    },
}
