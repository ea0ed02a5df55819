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

from training.data.dataset import DatasetError
from training.data.pickles import read_pickle

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)


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
@pytest.mark.parametrize("dtype", ["u1", ">i4", "<f4", "?"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_come_back(protocol: int, dtype: str, order: Any) -> None:
    array = np.asarray(np.arange(12).reshape(3, 4) % 7, dtype=dtype, order=order)
    data = {"training": [array, array[0]], "about": ("text", 1, 2.5, None, True), "mean": np.float32(0.25)}
    back = read_pickle(pickle.dumps(data, protocol), "it")
    assert back["training"][0].dtype.newbyteorder("=") == array.dtype.newbyteorder("=")
    assert [part.tolist() for part in back["training"]] == [array.tolist(), array[0].tolist()]
    assert (back["about"], back["mean"]) == (data["about"], 0.25)


def test_python_2s_strings_are_bytes_of_arrays() -> None:
    array = np.arange(256, dtype=np.uint8).reshape(2, 128)
    for dtype in ("u1", ">f8"):
        (back,) = read_pickle(of_python_2(array.astype(dtype)), "it")
        assert back.dtype.newbyteorder("=") == np.dtype(dtype).newbyteorder("=")
        assert np.array_equal(back, array)


class Call:
    """An object whose pickle asks for a call of any function."""

    def __init__(self, function: Any, *arguments: object) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_nothing_that_a_pickle_names_is_called(protocol: int, tmp_path: Path) -> None:
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
            with pytest.raises(DatasetError, match=r"^it cannot be read as a pickle of arrays: it names '\w+\."):
                read_pickle(pickle.dumps(content, protocol), "it")
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
    ],
)
def test_a_refusal_gives_the_name(content: bytes, name: str) -> None:
    with pytest.raises(DatasetError, match=re.escape(f"it names {name!r}, which is not part of an array of numbers")):
        read_pickle(content, "it")


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_truncated_pickle_is_refused_in_one_line(protocol: int) -> None:
    content = pickle.dumps({"training": [np.arange(20.0)], "name": "a\nb"}, protocol)
    for length in range(len(content)):
        with pytest.raises(DatasetError, match=r"^it cannot be read as a pickle of arrays: \S") as info:
            read_pickle(content[:length], "it")
        assert len(str(info.value).splitlines()) == 1


@pytest.mark.parametrize(
    "content",
    [
        b"<html>404</html>",
        b"c_codecs\nencode\n(S'a'\nS'rot13'\ntR.",
        b"\x80\x02\x82\x01.",  # an extension that nobody registered
        b"P1\n.",  # a persistent id
    ],
)
def test_other_damage_is_refused(content: bytes) -> None:
    with pytest.raises(DatasetError, match=r"^it cannot be read as a pickle of arrays: \S"):
        read_pickle(content, "it")
