"""NumPy files as uploads: which arrays are images, and what hostile files are answered."""

from __future__ import annotations

import contextlib
import io
import struct
import zipfile
from typing import Any

import httpx
import numpy as np
import pytest

from service.errors import BadImage, Problem, TooLarge
from service.images import ImageArray, decode_image, read_array

GRAY, COLOUR = (1, 8, 8), (3, 8, 8)
LEVELS = np.arange(2 * 3 * 64, dtype=np.int64).reshape(2, 3, 8, 8) % 256


def npy(array: Any) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def npz(compressed: bool = False, **arrays: Any) -> bytes:
    stream = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(stream, **arrays)
    return stream.getvalue()


@pytest.mark.parametrize(
    "array",
    [
        LEVELS.astype(np.uint8),
        LEVELS.transpose(0, 2, 3, 1),
        np.asfortranarray(LEVELS.astype(">i4")),
        LEVELS / 255.0,
        (LEVELS / 255.0).astype(np.float32),
    ],
)
def test_every_layout_and_type_gives_the_same_levels(array: Any) -> None:
    images = read_array(npy(array), COLOUR, max_images=2)
    assert images.dtype == np.uint8
    assert np.array_equal(images, LEVELS)


@pytest.mark.parametrize("shape", [(8, 8), (1, 8, 8), (1, 1, 8, 8), (8, 8, 1), (1, 8, 8, 1)])
def test_one_gray_image_may_leave_out_axes(shape: tuple[int, ...]) -> None:
    array = np.arange(64, dtype=np.uint8).reshape(shape)
    assert read_array(npy(array), GRAY, max_images=1).tolist() == np.arange(64).reshape(1, 1, 8, 8).tolist()


def test_booleans_are_black_and_white() -> None:
    array = np.arange(64).reshape(8, 8) % 3 == 0
    assert set(np.unique(read_array(npy(array), GRAY, max_images=1))) == {0, 255}


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((2, 9, 9)), "shape (2, 9, 9); this model takes (N, 1, 8, 8)"),
        (np.zeros((0, 8, 8)), "shape (0, 8, 8)"),
        (np.zeros((1, 2, 8, 8)), "shape (1, 2, 8, 8)"),
        (np.zeros(64), "shape (64,)"),
        (np.zeros((8, 8), complex), "complex128 values"),
        (np.zeros((8, 8), "U3"), "values"),
        (np.zeros((8, 8), "S1000"), "values"),
        (np.full((8, 8), 256), "between 0 and 255"),
        (np.full((8, 8), -1), "between 0 and 255"),
        (np.full((8, 8), 1.5), "between 0 and 1"),
        (np.full((8, 8), np.nan), "between 0 and 1"),
        (np.full((8, 8), -np.inf), "between 0 and 1"),
        (np.full((8, 8), 1.01, np.float32), "between 0 and 1"),
        (np.full((8, 8), -0.01, np.float16), "between 0 and 1"),
    ],
)
def test_arrays_that_are_no_images_are_refused(array: Any, words: str) -> None:
    with pytest.raises(BadImage) as caught:
        read_array(npy(array), GRAY, max_images=10)
    assert words in caught.value.detail


def test_objects_are_never_unpickled() -> None:
    stream = io.BytesIO()
    np.save(stream, np.array([[None]]), allow_pickle=True)
    with pytest.raises(BadImage, match="object"):
        read_array(stream.getvalue(), GRAY, max_images=1)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"PNG",
        npy(np.zeros((8, 8)))[:-1],
        npy(np.zeros((8, 8))) + b"0",
        npy(np.zeros((8, 8))).replace(b"(8, 8)", b"(8, 9)"),
        npy(np.zeros((8, 8))).replace(b"(8, 8)", b"(-1,8)"),
        npy(np.zeros((8, 8))).replace(b"<f8", b"<Z8"),
        b"\x93NUMPY\x01\x00\xff\xff" + b"(" * 65_535,
        b"\x93NUMPY\x02\x00\xff\xff\xff\xff{}",
    ],
)
def test_damaged_files_are_refused(data: bytes) -> None:
    with pytest.raises(BadImage):
        read_array(data, GRAY, max_images=1)


@pytest.mark.parametrize("compressed", [False, True])
def test_an_archive_holds_one_array_or_names_it(compressed: bool) -> None:
    array, labels = np.zeros((3, 8, 8), np.uint8), np.arange(3)
    assert len(read_array(npz(compressed, anything=array), GRAY, max_images=3)) == 3
    assert len(read_array(npz(compressed, images=array, labels=labels), GRAY, max_images=3)) == 3
    with pytest.raises(BadImage, match="named `images`"):
        read_array(npz(compressed, a=array, b=array), GRAY, max_images=3)


def test_a_bomb_is_not_unpacked() -> None:
    bomb = npz(True, images=np.zeros((100_000, 8, 8)))
    assert len(bomb) < 100_000
    with pytest.raises(TooLarge):
        read_array(bomb, GRAY, max_images=64)


def test_a_damaged_archive_is_refused() -> None:
    good = npz(True, images=np.random.default_rng(0).integers(0, 256, (4, 8, 8), np.uint8))
    for bad in (b"", good[:-30], good[:60] + b"\xff" * 40 + good[100:]):
        with pytest.raises(BadImage):
            read_array(bad, GRAY, max_images=4)
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("images.npy", npy(np.zeros((8, 8))))
    with pytest.raises(BadImage, match="compressed"):
        read_array(stream.getvalue(), GRAY, max_images=4)


@pytest.mark.parametrize(
    ("media_type", "make"), [("application/x-npy", npy), ("application/x-npz", lambda array: npz(images=array))]
)
def test_the_service_answers_arrays_as_it_answers_files(
    client: httpx.Client, pngs: list[bytes], media_type: str, make: Any
) -> None:
    of_files = client.post("/encode", files=[("file", (f"image {i}", png)) for i, png in enumerate(pngs[:3])])
    assert of_files.status_code == 200
    array = np.stack([decode_image(png, max_pixels=64) for png in pngs[:3]])
    of_array = client.post("/encode", content=make(array), headers={"Content-Type": media_type})
    assert of_array.json() == of_files.json()


def test_the_service_bounds_the_images_of_an_array(client: httpx.Client, problem: Any) -> None:
    body = npy(np.zeros((65, 8, 8), np.uint8))
    response = client.post("/encode", content=body, headers={"Content-Type": "application/x-npy"})
    problem(response, 413, "too-large")
    assert "64" in response.json()["detail"]


def header(description: str, body: bytes = bytes(64)) -> bytes:
    """A .npy file of version 1.0 with any header."""
    text = description.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + body


def described(shape: str = "(1, 8, 8)", descr: str = "'|u1'") -> bytes:
    return header(f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}")


def damaged_archives() -> list[bytes]:
    """Archives whose names are not UTF-8, and one whose array begins beyond 2**63 bytes."""
    archive = npz(images=np.zeros((8, 8), np.uint8))
    directory = archive.rindex(b"PK\x01\x02")
    listed, local, far = bytearray(archive), bytearray(archive), bytearray(archive)
    listed[directory + 8 : directory + 10] = local[6:8] = struct.pack("<H", 0x800)
    listed[directory + 46] = local[30] = 0xFF
    after_name = directory + 46 + len("images.npy")
    far[directory + 30 : directory + 32] = struct.pack("<H", 12)
    far[directory + 42 : directory + 46] = b"\xff" * 4
    far[after_name:after_name] = struct.pack("<HHQ", 1, 8, 2**64 - 1)
    end = far.rindex(b"PK\x05\x06")
    far[end + 12 : end + 16] = struct.pack("<I", end - directory)
    return [bytes(listed), bytes(local), bytes(far)]


HOSTILE = [
    header("(" * 100),
    header('"""'),
    header("{(\\"),
    header("  if 1:\n    x\n y"),
    header("{[]: 1}"),
    described(descr="()"),
    described(descr="('<f4',)"),
    described(shape=f"({10**30}, 8, 8)"),
    described(shape=f"({2**63}, 8, 8)"),
    described(shape=f"({hex(16**3700)}, 8, 8)"),
    described(shape=f"({hex(16**1300)}, {hex(16**1300)}, {hex(16**1300)})"),
    *damaged_archives(),
]


@pytest.mark.parametrize("data", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_headers_are_refused(data: bytes) -> None:
    with pytest.raises(BadImage):
        read_array(data, GRAY, max_images=1)


def test_the_length_of_an_axis_may_be_a_boolean() -> None:
    data = described(shape="(True, 8, 8)")
    assert read_array(data, GRAY, max_images=1).shape == (1, 1, 8, 8)


def test_an_archive_of_many_entries_is_refused_before_it_is_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    data = npz(**{f"a{index}": np.zeros(1) for index in range(200)})
    monkeypatch.delattr(zipfile, "ZipFile")
    with pytest.raises(BadImage, match="more than 100 arrays"):
        read_array(data, GRAY, max_images=1)


@pytest.mark.parametrize(
    "array", [LEVELS.astype(np.uint8), np.asfortranarray(LEVELS.astype(np.float32) / 255), LEVELS.transpose(0, 2, 3, 1)]
)
@pytest.mark.parametrize("make", [npy, lambda array: npz(True, images=array)])
def test_images_are_read_a_few_at_a_time(array: Any, make: Any) -> None:
    opened = ImageArray.open(make(array), COLOUR, max_images=2)
    assert len(opened) == 2
    assert [opened.read(1).tolist() for _ in range(2)] == LEVELS[:, None].tolist()


def test_headers_of_version_two_are_read() -> None:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, LEVELS.astype(np.uint8), version=(2, 0))
    assert np.array_equal(read_array(stream.getvalue(), COLOUR, max_images=2), LEVELS)


def test_a_file_that_ends_too_early_is_refused_where_it_ends() -> None:
    opened = ImageArray.open(npy(LEVELS)[:-1], COLOUR, max_images=2)
    opened.read(1)
    with pytest.raises(BadImage, match="ends before the last"):
        opened.read(1)


def test_a_large_array_must_be_in_c_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.images.arrays.MAX_FORTRAN_BYTES", LEVELS.nbytes - 1)
    with pytest.raises(BadImage, match="C order"):
        read_array(npy(np.asfortranarray(LEVELS)), COLOUR, max_images=2)
    assert len(read_array(npy(LEVELS), COLOUR, max_images=2)) == 2


def test_a_bomb_is_decompressed_no_further_than_is_asked(peak_memory: Any) -> None:
    head = io.BytesIO()
    shape = (10_000, 1, 100, 100)
    np.lib.format.write_array_header_1_0(head, {"descr": "|u1", "fortran_order": False, "shape": shape})
    body = archive(head.getvalue() + bytes(100_000_000))

    def read() -> None:
        opened = ImageArray.open(body, (1, 100, 100), max_images=10_000)
        for _ in range(10):
            opened.read(1)

    assert len(body) < 200_000
    assert peak_memory(read) < 1_000_000


def test_a_header_of_version_two_is_not_believed(peak_memory: Any) -> None:
    body = archive(b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**32 - 1) + bytes(100_000_000))

    def read() -> None:
        with pytest.raises(BadImage):
            read_array(body, GRAY, max_images=1)

    assert peak_memory(read) < 1_000_000


def test_damage_to_an_archive_is_told_as_such() -> None:
    images = np.random.default_rng(1).integers(0, 256, (40, 8, 8), np.uint8)
    good, rng = bytearray(npz(True, images=images)), np.random.default_rng(0)
    for _ in range(300):
        bad = bytearray(good)
        for position in rng.integers(0, len(bad), 3):
            bad[position] = rng.integers(0, 256)
        with contextlib.suppress(Problem):
            read_array(bytes(bad), GRAY, max_images=40)


def archive(content: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("images.npy", content)
    return stream.getvalue()
