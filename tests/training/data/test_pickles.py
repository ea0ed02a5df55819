from __future__ import annotations

import builtins
import os
import pickle
import re
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from training.data.pickles import read_pickle
from training.data.splits import DatasetError

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)


def read(content: bytes) -> Any:
    return read_pickle(content, "it")


def of_python_2(array: np.ndarray) -> bytes:
    """A list of one array as Python 2 and its NumPy wrote it, at protocol 0: the bytes are an escaped string."""
    escaped = "".join(
        chr(byte) if 32 <= byte < 127 and byte not in b"'\\" else f"\\x{byte:02x}" for byte in array.tobytes()
    )
    rows, columns = array.shape
    return (
        "(lp0\ncnumpy.core.multiarray\n_reconstruct\np1\n(cnumpy\nndarray\np2\n(I0\ntp3\nS'b'\np4\ntp5\nRp6\n"
        f"(I1\n(I{rows}\nI{columns}\ntp7\ncnumpy\ndtype\np8\n(S'{array.dtype.str[1:]}'\np9\nI0\nI1\ntp10\nRp11\n"
        f"(I3\nS'{array.dtype.byteorder}'\np12\nNNNI-1\nI-1\nI0\ntp13\nbI00\nS'{escaped}'\np14\ntp15\nba."
    ).encode("ascii")


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("dtype", ["u1", "<i8", ">i4", "<f4", ">f8", "?"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_come_back(protocol: int, dtype: str, order: Any) -> None:
    array = np.asarray(np.arange(12).reshape(3, 4) % 7, dtype=dtype, order=order)
    back = read(pickle.dumps(array, protocol))
    assert back.dtype.newbyteorder("=") == array.dtype.newbyteorder("=")
    assert np.array_equal(back, array)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_plain_data_around_arrays_comes_back(protocol: int) -> None:
    array = np.linspace(0, 1, 6).reshape(2, 3)
    data = {"training": [array, array[0]], "about": ("text", 1, 2.5, None, True), "mean": np.float32(0.25)}
    back = read(pickle.dumps(data, protocol))
    assert list(back) == list(data)
    assert back["about"] == data["about"]
    assert back["mean"] == 0.25
    assert [part.tolist() for part in back["training"]] == [array.tolist(), array[0].tolist()]


def test_python_2s_strings_are_bytes_of_arrays() -> None:
    array = np.arange(256, dtype=np.uint8).reshape(2, 128)
    (back,) = read(of_python_2(array))
    assert back.dtype == np.uint8
    assert np.array_equal(back, array)
    (big_endian,) = read(of_python_2(array.astype(">f8")))
    assert np.array_equal(big_endian, array)


class Call:
    """What a pickle of it asks for is a call of any function."""

    def __init__(self, function: Any, *arguments: object) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_nothing_that_a_pickle_names_is_run(protocol: int, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    for call in (
        Call(os.mkdir, str(mark)),
        Call(os.system, f"mkdir {mark}"),
        Call(builtins.eval, f"__import__('os').mkdir({str(mark)!r})"),
        Call(subprocess.Popen, ["mkdir", str(mark)]),
        Call(np.save, str(mark), 0),
        Call(getattr, "text", "upper"),
        Call(type(mark), str(mark)),
    ):
        for content in (call, [1, {"training": call}], np.array([call], dtype=object)):
            with pytest.raises(DatasetError, match=r"^it is refused: it (names '\w+\.|has an array of type 'O8')"):
                read(pickle.dumps(content, protocol))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (b"cos\nsystem\n(S'true'\ntR.", "os.system"),
        (b"c__builtin__\neval\n(S'1'\ntR.", "__builtin__.eval"),
        (b"(S'true'\nios\nsystem\n.", "os.system"),
        (b"\x80\x04\x8c\x05numpy\x8c\x15ndarray.__reduce_ex__\x93.", "numpy.ndarray.__reduce_ex__"),
        (b"ccopy_reg\n_reconstructor\n.", "copy_reg._reconstructor"),
        (b"cnumpy.core.multiarray\nfromstring\n.", "numpy.core.multiarray.fromstring"),
        (b"\x80\x04\x8c\x03o\ns\x8c\x06system\x93.", "o\ns.system"),
    ],
)
def test_a_refusal_gives_the_name(content: bytes, name: str) -> None:
    with pytest.raises(
        DatasetError, match=re.escape(f"it is refused: it names {name!r}, which is not part of an array")
    ):
        read(content)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    "array",
    [np.array([None, 1], dtype=object), np.zeros(2, "f4,i4"), np.array(["a"]), np.array(["2020-01-01"], "M8[D]")],
    ids=lambda array: array.dtype.str,
)
def test_arrays_of_anything_but_numbers_are_refused(protocol: int, array: np.ndarray) -> None:
    with pytest.raises(DatasetError, match=r"^it is refused: it has an array of type '.*', which is not a type of num"):
        read(pickle.dumps(array, protocol))


FORGED_STATE = (3, "|", None, None, None, 8, 8, 63)
"""Of a type whose bytes, says its last number, are addresses of objects."""


def test_the_state_of_a_type_cannot_turn_bytes_into_addresses() -> None:
    class Forged:
        def __reduce__(self) -> Any:
            return np.dtype, ("u8", False, True), FORGED_STATE

    class Array:
        def __reduce__(self) -> Any:
            start = np.zeros(0).__reduce__()
            return start[0], start[1], (1, (2,), Forged(), False, b"\x41" * 16)

    back = read(pickle.dumps(Array(), 2))
    assert back.dtype == np.uint64
    assert not back.dtype.hasobject
    assert back.tolist() == [0x4141414141414141] * 2


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_truncated_pickle_is_one_clear_line(protocol: int) -> None:
    content = pickle.dumps({"training": [np.arange(20.0)], "name": "a\nb"}, protocol)
    for length in range(len(content)):
        with pytest.raises(DatasetError, match=r"^it cannot be read as a pickle: \S") as info:
            read(content[:length])
        assert len(str(info.value).splitlines()) == 1


@pytest.mark.parametrize(
    "content",
    [
        b"<html>404</html>",
        b"cnumpy\nndarray\n(I3\ntR.",  # called, which only an argument should be
        b"cnumpy\ndtype\n(S'u1'\ntRp0\n0cnumpy.core.multiarray\nscalar\n(g0\nS''\ntR.",  # a number without bytes
        b"c_codecs\nencode\n(S'a'\nS'rot13'\ntR.",
        b"\x80\x02\x82\x01.",  # an extension that nobody registered
        b"P1\n.",  # a persistent id
    ],
)
def test_other_damage_is_refused_too(content: bytes) -> None:
    with pytest.raises(DatasetError, match=r"^it (is refused|cannot be read as a pickle): \S"):
        read(content)


@pytest.mark.parametrize("shape", [(3,), (-1, 2), (10**12, 10**12)])
def test_an_array_whose_bytes_do_not_fit_its_shape_is_refused(shape: tuple[int, ...]) -> None:
    class Array:
        def __reduce__(self) -> Any:
            start = np.zeros(0).__reduce__()
            return start[0], start[1], (1, shape, np.dtype("u1"), False, b"12")

    with pytest.raises(DatasetError, match="cannot be read as a pickle"):
        read(pickle.dumps(Array(), 2))
