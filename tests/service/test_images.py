from __future__ import annotations

import io
import struct
import warnings
import zlib

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageOps

from service.errors import BadImage, Problem, TooLarge, UnsupportedMediaType, WrongSize
from service.images import (
    contact_sheet,
    decode_image,
    encode_npy,
    encode_png,
    fit_to_model,
    sheet_png,
)
from service.images.writing import ROWS_AT_ONCE

GRAY, RGB, PALETTE, GRAY_ALPHA, RGB_ALPHA = 0, 2, 3, 4, 6
SAMPLES = {GRAY: 1, RGB: 3, PALETTE: 1, GRAY_ALPHA: 2, RGB_ALPHA: 4}
RAMP = np.arange(256).reshape(16, 16)


patient = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def chunk(name: bytes, data: bytes = b"") -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def header(width: int, height: int, depth: int, colour_type: int) -> bytes:
    return chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0))


def png(values: NDArray[np.integer], depth: int, colour_type: int, before: bytes = b"") -> bytes:
    """A PNG by the letter of its specification, from sample values (H, W) or (H, W, samples)."""
    height, width = values.shape[:2]
    samples = values.reshape(height, width * SAMPLES[colour_type])
    bits = (samples[..., None] >> np.arange(depth)[::-1]) & 1
    rows = np.packbits(bits.reshape(height, -1).astype(np.uint8), axis=1)
    pixels = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    start = b"\x89PNG\r\n\x1a\n" + header(width, height, depth, colour_type)
    return start + before + chunk(b"IDAT", pixels) + chunk(b"IEND")


def decode(data: bytes, max_pixels: int = 10_000) -> NDArray[np.uint8]:
    return decode_image(data, max_pixels=max_pixels)


# decoding


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
def test_gray_of_every_depth_is_scaled_to_eight_bits(depth: int) -> None:
    top = 2**depth - 1
    values = np.linspace(0, top, 35).round().astype(int).reshape(5, 7)
    pixels = decode(png(values, depth, GRAY))
    assert pixels.dtype == np.uint8
    np.testing.assert_array_equal(pixels, np.rint(values / top * 255))


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
def test_the_transparent_gray_lies_over_black(depth: int) -> None:
    top = 2**depth - 1
    values = np.array([[0, top], [top, top - 1]])
    pixels = decode(png(values, depth, GRAY, chunk(b"tRNS", struct.pack(">H", top))))
    assert pixels.tolist() == [[0, 0], [0, round((top - 1) / top * 255)]]


@pytest.mark.parametrize("depth", [8, 16])
def test_colours(depth: int) -> None:
    values = np.random.default_rng(0).integers(0, 256, (5, 7, 3))
    data = png(values * 257 if depth == 16 else values, depth, RGB)
    np.testing.assert_array_equal(decode(data), values)


@pytest.mark.parametrize("depth", [8, 16])
def test_the_transparent_colour_lies_over_black(depth: int) -> None:
    scale = 257 if depth == 16 else 1
    values = np.array([[[9, 8, 7], [9, 8, 6]]])
    transparent = struct.pack(">HHH", *(scale * np.array([9, 8, 7])))
    assert decode(png(values * scale, depth, RGB, chunk(b"tRNS", transparent))).tolist() == [[[0, 0, 0], [9, 8, 6]]]


@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize("colour_type", [GRAY_ALPHA, RGB_ALPHA])
def test_alpha_lies_over_black(depth: int, colour_type: int) -> None:
    values = np.random.default_rng(0).integers(0, 256, (5, 7, SAMPLES[colour_type]))
    pixels = decode(png(values * 257 if depth == 16 else values, depth, colour_type))
    expected = values[..., :-1] * values[..., -1:] / 255
    np.testing.assert_array_equal(pixels, np.rint(expected[..., 0] if colour_type == GRAY_ALPHA else expected))


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_a_palette_becomes_colours(depth: int) -> None:
    palette = np.random.default_rng(0).integers(0, 256, (2**depth, 3), dtype=np.uint8)
    values = np.arange(2**depth).reshape(1, -1)
    pixels = decode(png(values, depth, PALETTE, chunk(b"PLTE", palette.tobytes())))
    np.testing.assert_array_equal(pixels, palette[None])


def test_transparency_of_a_palette_lies_over_black() -> None:
    before = chunk(b"PLTE", bytes([255, 255, 255, 100, 50, 0])) + chunk(b"tRNS", bytes([0, 51]))
    assert decode(png(np.array([[0, 1]]), 8, PALETTE, before)).tolist() == [[[0, 0, 0], [20, 10, 0]]]


@pytest.mark.parametrize(("width", "height"), [(1, 1), (2, 5), (3, 3), (5, 2), (8, 8), (13, 29)])
@pytest.mark.parametrize("depth", [1, 8])
def test_an_interlaced_png(width: int, height: int, depth: int) -> None:
    values = np.random.default_rng(0).integers(0, 2**depth, (height, width))
    passes = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
    rows = b""
    for left, top, right, down in passes:
        part = values[top::down, left::right]
        if part.size:
            whole = png(part, depth, GRAY)
            rows += zlib.decompress(whole[whole.index(b"IDAT") + 4 : -16])
    interlaced = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, GRAY, 0, 0, 1))
    start = b"\x89PNG\r\n\x1a\n" + interlaced
    pixels = decode(start + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND"))
    np.testing.assert_array_equal(pixels, values * (255 if depth == 1 else 1))
    with pytest.raises(BadImage, match="missing"):
        decode(start + chunk(b"IDAT", zlib.compress(rows[:-1])) + chunk(b"IEND"))


def test_a_png_of_many_chunks() -> None:
    values = np.random.default_rng(0).integers(0, 256, (50, 41), dtype=np.uint8)
    data = png(values, 8, GRAY)
    start = data.index(b"IDAT") - 4
    pixels = data[start + 8 : -16]
    pieces = [chunk(b"IDAT", pixels[index : index + 100]) for index in range(0, len(pixels), 100)]
    np.testing.assert_array_equal(decode(data[:start] + b"".join(pieces) + chunk(b"IEND")), values)


def test_bytes_behind_the_end_do_not_matter() -> None:
    assert decode(png(RAMP, 8, GRAY) + b"tail").shape == (16, 16)


# refusing


@pytest.mark.parametrize("kind", ["GIF", "BMP", "TIFF"])
def test_other_formats_are_told_by_their_content(kind: str) -> None:
    buffer = io.BytesIO()
    Image.fromarray(RAMP.astype(np.uint8)).save(buffer, kind)
    with pytest.raises(UnsupportedMediaType, match="PNG"):
        decode(buffer.getvalue())


def test_nothing_is_a_bad_image() -> None:
    with pytest.raises(BadImage, match="empty"):
        decode(b"")


def test_the_size_is_checked_before_anything_is_decoded() -> None:
    """The pixels of this one are missing: only the header can have said that it is too large."""
    data = b"\x89PNG\r\n\x1a\n" + header(100_000, 100_000, 8, GRAY) + chunk(b"IDAT", b"") + chunk(b"IEND")
    with pytest.raises(TooLarge, match="100000 x 100000"):
        decode(data, max_pixels=10**9)


def test_as_many_pixels_as_allowed_are_allowed() -> None:
    assert decode(png(RAMP, 8, GRAY), max_pixels=256).shape == (16, 16)
    with pytest.raises(TooLarge):
        decode(png(RAMP, 8, GRAY), max_pixels=255)


@pytest.mark.parametrize("length", range(8, len(png(RAMP, 8, GRAY))))
def test_a_truncated_png(length: int) -> None:
    with pytest.raises(BadImage, match="truncated"):
        decode(png(RAMP, 8, GRAY)[:length])


def test_a_flipped_bit_anywhere_is_noticed() -> None:
    data = png(RAMP, 8, GRAY)
    for index in range(8, len(data)):
        with pytest.raises(BadImage):
            decode(data[:index] + bytes([data[index] ^ 16]) + data[index + 1 :])


@pytest.mark.parametrize(("width", "height"), [(0, 1), (1, 0), (0, 0)])
def test_a_png_of_no_size(width: int, height: int) -> None:
    data = b"\x89PNG\r\n\x1a\n" + header(width, height, 8, GRAY) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND")
    with pytest.raises(BadImage, match="zero"):
        decode(data)


def test_an_animated_png() -> None:
    buffer = io.BytesIO()
    frames = [Image.fromarray(values.astype(np.uint8)) for values in (RAMP, RAMP[::-1])]
    frames[0].save(buffer, "PNG", save_all=True, append_images=frames[1:])
    with pytest.raises(BadImage, match="animated"):
        decode(buffer.getvalue())


@pytest.mark.parametrize(
    "data",
    [
        b"\x89PNG\r\n\x1a\n" + chunk(b"IEND"),
        b"\x89PNG\r\n\x1a\n" + header(1, 1, 8, GRAY) + chunk(b"IEND"),
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", b"short") + chunk(b"IDAT") + chunk(b"IEND"),
        png(np.array([[1]]), 8, PALETTE),
        png(RAMP, 8, GRAY, header(2**20, 2**20, 8, GRAY)),
        png(RAMP, 8, GRAY, chunk(b"tRNS", b"1")),
        png(RAMP, 8, GRAY).replace(header(16, 16, 8, GRAY), header(16, 16, 7, GRAY)),
        png(RAMP, 8, GRAY).replace(header(16, 16, 8, GRAY), header(16, 16, 8, 5)),
        png(RAMP, 8, GRAY).replace(header(16, 16, 8, GRAY), header(16, 17, 8, GRAY)),
        b"\x89PNG\r\n\x1a\n" + header(1, 1, 8, GRAY) + chunk(b"IDAT", b"not deflated") + chunk(b"IEND"),
    ],
)
def test_a_png_that_contradicts_itself(data: bytes) -> None:
    with pytest.raises(BadImage):
        decode(data)


COLOURS = chunk(b"PLTE", bytes(range(12)))
INDICES = np.array([[0, 1, 2, 3]])
PIXELS = chunk(b"IDAT", zlib.compress(b"\0\0\1\2\3"))
SIGNATURE = b"\x89PNG\r\n\x1a\n"


def palette_png(*chunks: bytes) -> bytes:
    return SIGNATURE + header(4, 1, 8, PALETTE) + b"".join(chunks) + chunk(b"IEND")


CONTRADICTIONS = {
    "a palette after the pixels": palette_png(PIXELS, COLOURS),
    "an empty palette": palette_png(chunk(b"PLTE"), PIXELS),
    "a palette of 47 bytes": palette_png(chunk(b"PLTE", bytes(47)), PIXELS),
    "two palettes": palette_png(COLOURS, COLOURS, PIXELS),
    "a palette of 257 colours": palette_png(chunk(b"PLTE", bytes(771)), PIXELS),
    "more colours than the depth allows": png(np.array([[0, 1]]), 1, PALETTE, COLOURS),
    "a palette in a gray image": png(RAMP, 8, GRAY, COLOURS),
    "colours that the palette lacks": png(np.array([[0, 4]]), 8, PALETTE, COLOURS),
    "transparency before the palette": palette_png(chunk(b"tRNS", b"1"), COLOURS, PIXELS),
    "transparency after the pixels": palette_png(COLOURS, PIXELS, chunk(b"tRNS", b"1")),
    "two transparencies": palette_png(COLOURS, chunk(b"tRNS", b"1"), chunk(b"tRNS", b"1"), PIXELS),
    "more transparencies than colours": palette_png(COLOURS, chunk(b"tRNS", b"12345"), PIXELS),
    "transparency beside alpha": png(np.zeros((1, 1, 2), int), 8, GRAY_ALPHA, chunk(b"tRNS", b"12")),
    "a chunk between the pixels": palette_png(COLOURS, PIXELS, chunk(b"tEXt", b"x"), PIXELS),
    "an unknown critical chunk": palette_png(COLOURS, chunk(b"CgBI"), PIXELS),
    "an unknown filter": palette_png(COLOURS, chunk(b"IDAT", zlib.compress(b"\5\0\1\2\3"))),
    "too many pixels": palette_png(COLOURS, chunk(b"IDAT", zlib.compress(b"\0\0\1\2\3\0"))),
    "a checksum of the pixels that is missing": palette_png(COLOURS, chunk(b"IDAT", zlib.compress(b"\0\0\1\2\3")[:-4])),
    "an unknown compression": SIGNATURE
    + chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 1, 8, GRAY, 1, 0, 0))
    + PIXELS
    + chunk(b"IEND"),
}


@pytest.mark.parametrize("data", CONTRADICTIONS.values(), ids=CONTRADICTIONS)
def test_a_png_that_breaks_the_standard_is_refused(data: bytes) -> None:
    good = palette_png(COLOURS, chunk(b"tRNS", b"1234"), chunk(b"tEXt", b"x"), PIXELS)
    assert decode(good).shape == (1, 4, 3)
    with pytest.raises(BadImage):
        decode(data)


def test_the_transparent_colour_of_16_bits_is_compared_whole() -> None:
    values = np.array([[[0x0901, 0x0802, 0x0703], [0x0901, 0x0802, 0x0704]]])
    transparent = struct.pack(">HHH", 0x0901, 0x0802, 0x0703)
    assert decode(png(values, 16, RGB, chunk(b"tRNS", transparent))).tolist() == [[[0, 0, 0], [9, 8, 7]]]


def test_a_transparent_gray_that_no_pixel_can_have_changes_nothing() -> None:
    data = png(RAMP % 16, 4, GRAY, chunk(b"tRNS", struct.pack(">H", 300)))
    np.testing.assert_array_equal(decode(data), RAMP % 16 * 17)


@pytest.mark.parametrize("colour_type", [GRAY, RGB, GRAY_ALPHA, RGB_ALPHA])
def test_filters_are_undone_as_another_program_undoes_them(colour_type: int) -> None:
    values = np.random.default_rng(0).integers(0, 50, (70, 90, SAMPLES[colour_type])).cumsum(axis=1) % 256
    rng = np.random.default_rng(1)
    raw = values.reshape(70, -1).astype(np.uint8)
    filtered = b"".join(bytes([rng.integers(0, 5)]) + row.tobytes() for row in raw)  # any bytes are some filtered row
    data = SIGNATURE + header(90, 70, 8, colour_type) + chunk(b"IDAT", zlib.compress(filtered)) + chunk(b"IEND")
    expected = np.asarray(Image.open(io.BytesIO(data))).astype(int)
    if colour_type in (GRAY_ALPHA, RGB_ALPHA):
        expected = (expected[..., :-1] * expected[..., -1:] + 127) // 255
    np.testing.assert_array_equal(decode(data), expected[..., 0] if colour_type == GRAY_ALPHA else expected)


def test_an_image_larger_than_a_block_of_rows_is_whole() -> None:
    values = np.random.default_rng(0).integers(0, 256, (300, 701, 4))
    pixels = decode(png(values, 8, RGB_ALPHA), max_pixels=10**6)
    np.testing.assert_array_equal(pixels, np.rint(values[..., :3] * values[..., 3:] / 255))
    table = np.random.default_rng(0).integers(0, 256, (256, 3), dtype=np.uint8)
    data = png(values[..., 0], 8, PALETTE, chunk(b"PLTE", table.tobytes()))
    np.testing.assert_array_equal(decode(data, max_pixels=10**6), table[values[..., 0]])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_orientation_of_a_png_is_applied(orientation: int) -> None:
    exif = b"MM\0*\0\0\0\x08\0\1" + struct.pack(">HHIHH", 0x0112, 3, 1, orientation, 0) + bytes(4)
    data = png(RAMP[:9], 8, GRAY, chunk(b"eXIf", exif))
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    np.testing.assert_array_equal(decode(data), expected)


@pytest.mark.parametrize("name", [b"zTXt", b"iCCP", b"iTXt"])
def test_a_bomb_beside_the_pixels_is_not_unpacked(name: bytes) -> None:
    bomb = zlib.compress(bytes(64 * 1024 * 1024))
    data = b"key\0" + (b"\1\0\0\0" if name == b"iTXt" else b"\0") + bomb
    np.testing.assert_array_equal(decode(png(RAMP, 8, GRAY, chunk(name, data))), RAMP)


def test_a_bomb_of_chunks() -> None:
    with pytest.raises(BadImage, match="chunks"):
        decode(png(RAMP, 8, GRAY, chunk(b"tEXt") * 100_000))


def only_problems(data: bytes) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            pixels = decode(data)
        except Problem as problem:
            assert problem.detail.endswith(".")  # noqa: PT017
        else:
            assert pixels.dtype == np.uint8
            assert pixels.shape[2:] in [(), (3,)]


@patient
@given(st.binary(max_size=200))
def test_any_bytes_decode_or_are_a_problem(data: bytes) -> None:
    only_problems(data)
    only_problems(b"\x89PNG\r\n\x1a\n" + data)


@patient
@given(
    st.tuples(st.integers(0, 20), st.integers(0, 20), st.sampled_from([1, 2, 4, 8, 16, 3]), st.integers(0, 6)),
    st.lists(
        st.tuples(
            st.sampled_from([b"PLTE", b"tRNS", b"IDAT", b"gAMA", b"sRGB", b"cHRM", b"pHYs", b"eXIf", b"fdAT"]),
            st.binary(max_size=64) | st.binary(max_size=64).map(zlib.compress),
        ),
        max_size=5,
    ),
)
def test_any_chunks_with_good_checksums_decode_or_are_a_problem(
    head: tuple[int, int, int, int], chunks: list[tuple[bytes, bytes]]
) -> None:
    body = b"".join(chunk(name, data) for name, data in chunks)
    only_problems(b"\x89PNG\r\n\x1a\n" + header(*head) + body + chunk(b"IEND"))


@patient
@given(st.data())
def test_any_change_of_a_good_png_decodes_or_is_a_problem(data: st.DataObject) -> None:
    colour_type = data.draw(st.sampled_from([GRAY, RGB, GRAY_ALPHA, RGB_ALPHA]))
    good = bytearray(png(np.full((6, 5, SAMPLES[colour_type]), 77), 8, colour_type))
    for position, value in data.draw(st.lists(st.tuples(st.integers(0, len(good) - 1), st.integers(0, 255)))):
        good[position] = value
    only_problems(bytes(good))


# fitting


def fit(
    pixels: object, shape: tuple[int, int, int], *, resize: bool = False, invert: bool = False
) -> NDArray[np.uint8]:
    return fit_to_model(np.asarray(pixels, np.uint8), shape, resize=resize, invert=invert)


def test_a_gray_image_keeps_its_levels() -> None:
    gray = fit(RAMP, (1, 16, 16))
    assert gray.dtype == np.uint8
    np.testing.assert_array_equal(gray[0], RAMP)
    np.testing.assert_array_equal(fit(RAMP, (1, 16, 16), invert=True), 255 - gray)


def test_gray_and_colours_turn_into_each_other() -> None:
    np.testing.assert_array_equal(fit(RAMP, (3, 16, 16)), np.repeat(fit(RAMP, (1, 16, 16)), 3, axis=0))
    np.testing.assert_array_equal(fit(np.stack([RAMP] * 3, axis=-1), (1, 16, 16)), fit(RAMP, (1, 16, 16)))
    luma = fit([[[255, 0, 0], [0, 255, 0], [0, 0, 255]]], (1, 1, 3))
    np.testing.assert_allclose(luma / 255, [[[0.299, 0.587, 0.114]]], atol=0.002)
    assert fit([[[1, 2, 3]]], (3, 1, 1)).tolist() == [[[1]], [[2]], [[3]]]


def test_a_wrong_size_names_both() -> None:
    with pytest.raises(WrongSize, match="30 x 20 pixels, the model takes 28 x 29"):
        fit(np.zeros((20, 30)), (1, 29, 28))


def test_resizing_averages_over_areas() -> None:
    halves = np.kron([[0, 200], [100, 40]], np.ones((3, 5)))
    np.testing.assert_array_equal(fit(halves, (1, 2, 2), resize=True), [[[0, 200], [100, 40]]])
    checkers = np.indices((8, 8)).sum(axis=0) % 2 * 200
    np.testing.assert_array_equal(fit(checkers, (1, 4, 4), resize=True), np.full((1, 4, 4), 100))
    assert fit(RAMP, (3, 28, 28), resize=True).shape == (3, 28, 28)


def test_resizing_to_the_same_size_changes_nothing() -> None:
    np.testing.assert_array_equal(fit(RAMP, (1, 16, 16), resize=True), fit(RAMP, (1, 16, 16)))


def test_a_model_of_two_channels_takes_no_png() -> None:
    with pytest.raises(BadImage, match="2 channels"):
        fit(RAMP, (2, 16, 16))


# encoding


@pytest.mark.parametrize("channels", [1, 3])
def test_what_is_encoded_decodes(channels: int) -> None:
    gray = np.random.default_rng(0).integers(0, 256, (channels, 9, 5))
    pixels = decode(encode_png((gray.astype(np.float32) + 0.5) / 256))
    np.testing.assert_array_equal(fit(pixels, (channels, 9, 5)), gray)


def test_a_tall_image_is_written_in_pieces() -> None:
    gray = np.random.default_rng(0).integers(0, 256, (1, 2 * ROWS_AT_ONCE + 3, 5))
    np.testing.assert_array_equal(decode(encode_png((gray + 0.5) / 256)), gray[0])


def test_values_beyond_black_and_white_are_clipped() -> None:
    assert decode(encode_png(np.array([[[-0.5, 0.5, 1.5]]]))).tolist() == [[0, 128, 255]]


def test_black_and_white_take_a_bit_a_pixel() -> None:
    image = np.random.default_rng(0).integers(0, 2, (1, 28, 28)).astype(np.float32)
    data = encode_png(image)
    assert data[24] == 1  # the header's bit depth
    assert encode_png(image * 0.9)[24] == 8
    np.testing.assert_array_equal(decode(data), image[0] * 255)


def test_enlarging_makes_squares() -> None:
    assert decode(encode_png(np.array([[[0.25, 0.5]]]), scale=2)).tolist() == [[64, 64, 128, 128], [64, 64, 128, 128]]


def test_a_contact_sheet_shows_every_image_in_its_place() -> None:
    images = np.random.default_rng(0).random((5, 3, 4, 6)).astype(np.float32)
    sheet = contact_sheet(images, columns=3, scale=2, padding=1)
    assert sheet.shape == (3, 2 * (8 + 1) + 1, 3 * (12 + 1) + 1)
    for index, image in enumerate(images):
        top, left = 1 + index // 3 * 9, 1 + index % 3 * 13
        levels = np.floor(image * 256)
        np.testing.assert_array_equal(sheet[:, top : top + 8 : 2, left : left + 12 : 2], levels)
        np.testing.assert_array_equal(sheet[:, top + 1 : top + 8 : 2, left + 1 : left + 12 : 2], levels)


def test_a_contact_sheet_is_no_wider_than_its_images() -> None:
    images = np.zeros((2, 1, 4, 4), np.float32)
    assert contact_sheet(images, columns=10, scale=1, padding=0).shape == (1, 4, 8)


def test_the_png_of_a_sheet_is_of_the_sheet() -> None:
    images = np.random.default_rng(0).random((5, 1, 4, 6))
    pixels = decode(sheet_png(images, columns=2, scale=3))
    np.testing.assert_array_equal(pixels, contact_sheet(images, columns=2, scale=3)[0])


def test_npy_is_read_without_pickle() -> None:
    array = np.random.default_rng(0).random((2, 1, 4, 6)).astype(np.float32)
    np.testing.assert_array_equal(np.load(io.BytesIO(encode_npy(array)), allow_pickle=False), array)
    with pytest.raises(ValueError, match=r"[Oo]bject"):
        encode_npy(np.array([object()]))
