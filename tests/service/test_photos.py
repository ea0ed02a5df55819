"""JPEG and WebP: decoded as Pillow decodes them, and refused where they are damaged, animated or too costly."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps

from service.errors import BadImage, TooLarge, UnsupportedMediaType
from service.images import decode_image, open_image

SMOOTH = (np.add.outer(np.arange(40), np.arange(50)) * 2).astype(np.uint8)
COLOURS = np.stack([SMOOTH, SMOOTH[::-1], SMOOTH[:, ::-1]], axis=-1)
NOISE = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
ALPHA = np.concatenate([COLOURS, SMOOTH[..., None]], axis=-1)


def save(pixels: NDArray[np.uint8], kind: str, mode: str | None = None, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image = Image.fromarray(pixels)
    (image if mode is None else image.convert(mode)).save(buffer, kind, **options)
    return buffer.getvalue()


def decode(data: bytes, max_pixels: int = 10_000) -> NDArray[np.uint8]:
    return decode_image(data, max_pixels=max_pixels)


def read(data: bytes) -> Image.Image:
    """The image as Pillow's own entry point reads it."""
    return Image.open(io.BytesIO(data))


def segment(marker: int, content: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content


def exif(orientation: int, order: str = ">") -> bytes:
    head = b"MM\0*" if order == ">" else b"II*\0"
    return b"Exif\0\0" + head + struct.pack(f"{order}IHHHIHHI", 8, 1, 0x0112, 3, 1, orientation, 0, 0)


JPEG = save(COLOURS, "JPEG")
WEBP = save(COLOURS, "WEBP", lossless=True)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0, "quality": 95}])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_jpeg(mode: str, options: dict[str, Any]) -> None:
    data = save(COLOURS, "JPEG", mode, **options)
    np.testing.assert_array_equal(decode(data), np.asarray(read(data)))


@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
@pytest.mark.parametrize("size", [(1, 1), (7, 5), (28, 28), (33, 17), (40, 50)])
def test_a_jpeg_of_any_layout_is_decoded_as_pillow_decodes_it(
    size: tuple[int, int], mode: str, progressive: bool, subsampling: int
) -> None:
    layout = 0 if mode == "CMYK" else subsampling
    for quality in (1, 50, 95, 100):
        for interval in (0, 1, 3):
            data = save(
                COLOURS[: size[0], : size[1]],
                "JPEG",
                mode,
                quality=quality,
                subsampling=layout,
                progressive=progressive,
                restart_marker_blocks=interval,
            )
            expected = read(data).convert("RGB") if mode == "CMYK" else read(data)
            np.testing.assert_array_equal(decode(data), np.asarray(expected))


def test_a_jpeg_of_four_transformed_inks_is_decoded_as_pillow_decodes_it() -> None:
    data = save(COLOURS, "JPEG", "CMYK")
    position = data.index(b"Adobe") + 11
    data = data[:position] + b"\2" + data[position + 1 :]
    np.testing.assert_array_equal(decode(data), np.asarray(read(data).convert("RGB")))


@pytest.mark.parametrize("interval", [0, 1, 3])
@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_a_jpeg_that_is_cut_anywhere_in_its_scans_is_refused(mode: str, progressive: bool, interval: int) -> None:
    data = save(NOISE, "JPEG", mode, progressive=progressive, restart_marker_blocks=interval)
    start = data.index(b"\xff\xda")
    start += 2 + int.from_bytes(data[start + 2 : start + 4])
    read(data[:start] + b"\xff\xd9").load()  # Pillow notices nothing
    for end in [*range(start, len(data) - 40, 97), *range(len(data) - 40, len(data) - 2)]:
        with pytest.raises(BadImage):
            decode(data[:end].rstrip(b"\xff") + b"\xff\xd9")


@pytest.mark.parametrize("kept", range(1, 10))
def test_a_progressive_jpeg_that_lacks_whole_scans_is_refused(kept: int) -> None:
    data = save(COLOURS, "JPEG", progressive=True)
    assert data.count(b"\xff\xda") == 10
    end = 0
    for _ in range(kept + 1):
        end = data.index(b"\xff\xda", end + 1)
    tables = data.rfind(b"\xff\xc4", 0, end)
    for cut in (end, tables):
        with pytest.raises(BadImage, match="missing"):
            decode(data[:cut] + b"\xff\xd9")


def test_a_jpeg_of_an_unusual_subsampling_is_named() -> None:
    with pytest.raises(BadImage, match="subsampling"):
        decode(save(COLOURS, "JPEG", "CMYK", subsampling=2))


def test_a_jpeg_of_four_inks_becomes_rgb() -> None:
    data = save(COLOURS, "JPEG", "CMYK", quality=100)
    assert read(data).mode == "CMYK"
    np.testing.assert_array_equal(decode(data), np.asarray(read(data).convert("RGB")))
    assert np.abs(decode(data).astype(int) - COLOURS).mean() < 3


@pytest.mark.parametrize("options", [{}, {"lossless": True}])
def test_a_webp(options: dict[str, Any]) -> None:
    data = save(COLOURS, "WEBP", **options)
    np.testing.assert_array_equal(decode(data), np.asarray(read(data)))


@pytest.mark.parametrize("options", [{"quality": 90}, {"lossless": True}])
def test_alpha_of_a_webp_lies_over_black(options: dict[str, Any]) -> None:
    data = save(ALPHA, "WEBP", **options)
    stored = np.asarray(read(data)).astype(int)
    assert stored.shape[-1] == 4
    np.testing.assert_array_equal(decode(data), np.rint(stored[..., :3] * stored[..., 3:] / 255))


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_orientation_is_applied(orientation: int, order: str, kind: str) -> None:
    data = save(COLOURS, kind, exif=exif(orientation, order))
    expected = np.asarray(ImageOps.exif_transpose(read(data)))
    np.testing.assert_array_equal(decode(data), expected)
    assert open_image(data).size == expected.shape[:2]


@pytest.mark.parametrize(
    "content", [b"", b"Exif\0\0", b"Exif\0\0MM\0*\xff\xff\xff\xff", exif(9), exif(0), exif(6)[:-9], exif(6)[6:30]]
)
def test_exif_that_cannot_be_read_turns_nothing(content: bytes) -> None:
    data = JPEG[:2] + segment(0xE1, content) + JPEG[2:]
    np.testing.assert_array_equal(decode(data), np.asarray(read(JPEG)))


def test_exif_whose_entries_share_one_large_value_takes_no_memory(peak_memory: Any) -> None:
    entries = b"".join(struct.pack(">HHII", 1000 + index, 7, 60_000, 8) for index in range(5400))
    content = b"Exif\0\0MM\0*" + struct.pack(">IH", 8, 5400) + entries
    data = JPEG[:2] + segment(0xE1, content) + JPEG[2:]
    assert peak_memory(lambda: decode(data)) < 2_000_000


@pytest.mark.parametrize(
    ("before", "after"), [(b"", b""), (segment(0xFE, b"hello"), b""), (b"\xff\xff", b""), (b"", b"trailing bytes")]
)
def test_a_jpeg_with_something_around_it(before: bytes, after: bytes) -> None:
    np.testing.assert_array_equal(decode(JPEG[:2] + before + JPEG[2:] + after), np.asarray(read(JPEG)))


SCAN = JPEG.index(b"\xff\xda")
FRAME = JPEG.index(b"\xff\xc0")
BAD = {
    "a jpeg without pixels": JPEG[:SCAN],
    "half a jpeg": JPEG[: SCAN + (len(JPEG) - SCAN) // 2],
    "a jpeg without its end": JPEG[:-2],
    "a jpeg with two frames": JPEG[:SCAN] + JPEG[FRAME : FRAME + 19] + JPEG[SCAN:],
    "a jpeg without a frame": JPEG[:FRAME] + JPEG[SCAN:],
    "a jpeg of no height": JPEG[: FRAME + 5] + b"\0\0" + JPEG[FRAME + 7 :],
    "a jpeg with bytes between segments": JPEG[:FRAME] + b"xx" + JPEG[FRAME:],
    "a jpeg with a marker without length": JPEG[:FRAME] + b"\xff\xd0" + JPEG[FRAME:],
    "a jpeg of 12 bits": JPEG[: FRAME + 4] + b"\x0c" + JPEG[FRAME + 5 :],
    "a jpeg of two channels": JPEG[: FRAME + 9] + b"\x02" + JPEG[FRAME + 10 :],
    "a lossless jpeg": JPEG[: FRAME + 1] + b"\xc3" + JPEG[FRAME + 2 :],
    "a jpeg of too many segments": JPEG[:2] + segment(0xE1, b"") * 1000 + JPEG[2:],
    "a jpeg of too many fill bytes": JPEG[:2] + b"\xff" * 1000 + JPEG[2:],
    "a jpeg of too many scans": JPEG[:-2] + JPEG[SCAN : SCAN + 14] * 40 + JPEG[-2:],
    "half a webp": WEBP[: len(WEBP) // 2],
    "a webp of 20 bytes": WEBP[:20],
    "a webp of another kind": WEBP[:12] + b"VP8?" + WEBP[16:],
    "a webp without its signature": WEBP[:20] + b"\0" + WEBP[21:],
    "a webp of another size": save(ALPHA, "WEBP", exif=b"x")[:24] + b"\0" + save(ALPHA, "WEBP", exif=b"x")[25:],
    "a webp of noise": WEBP[:30] + b"\xff" * (len(WEBP) - 30),
}


@pytest.mark.parametrize("data", BAD.values(), ids=BAD)
def test_a_damaged_file_is_refused(data: bytes) -> None:
    with pytest.raises(BadImage):
        decode(data)


def test_an_animated_webp_is_refused() -> None:
    frames = [Image.fromarray(COLOURS), Image.fromarray(COLOURS[::-1])]
    buffer = io.BytesIO()
    frames[0].save(buffer, "WEBP", save_all=True, append_images=frames[1:])
    with pytest.raises(BadImage, match="animated"):
        decode(buffer.getvalue())


def test_the_size_is_checked_before_anything_is_decoded() -> None:
    jpeg = JPEG[: FRAME + 5] + struct.pack(">HH", 60_000, 50_000) + JPEG[FRAME + 9 :]
    webp = WEBP[:21] + struct.pack("<I", 9_999 | 14_999 << 14) + WEBP[25:]
    for data, size in ((jpeg, "50000 x 60000"), (webp, "10000 x 15000")):
        with pytest.raises(TooLarge, match=size):
            decode(data)


@pytest.mark.parametrize(("data", "kind"), [(JPEG, "jpeg"), (WEBP, "webp"), (save(COLOURS, "PNG"), "png")])
def test_a_format_that_is_excluded_is_refused(data: bytes, kind: str) -> None:
    others = [name for name in ("png", "jpeg", "webp") if name != kind]
    with pytest.raises(UnsupportedMediaType, match=f"(?i)is a {kind}, .* convert it to {' or '.join(others)}"):
        decode_image(data, max_pixels=10_000, formats=others)
    assert decode_image(data, max_pixels=10_000, formats=[kind]).shape == (40, 50, 3)


HEAVY = np.random.default_rng(0).integers(0, 40, (1500, 2000, 4), dtype=np.uint8)


@pytest.mark.parametrize(
    ("kind", "mode", "options"),
    [
        ("PNG", "RGBA", {"compress_level": 1}),
        ("PNG", "LA", {"compress_level": 1}),
        ("PNG", "P", {"compress_level": 1}),
        ("PNG", "RGB", {"compress_level": 1, "transparency": (1, 2, 3)}),
        ("JPEG", "RGB", {"progressive": True}),
        ("JPEG", "CMYK", {"progressive": True}),
        ("WEBP", "RGBA", {"quality": 50, "method": 0}),
        ("WEBP", "RGBA", {"lossless": True, "quality": 0, "method": 0}),
    ],
)
def test_decoding_takes_a_bounded_number_of_bytes_per_pixel(
    resident_growth: Any, kind: str, mode: str, options: dict[str, Any]
) -> None:
    data = save(HEAVY, kind, mode, **options)
    assert resident_growth(data) < 24 * 3_000_000


def test_empty_chunks_of_pixels_are_bounded() -> None:
    empty = struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))
    png = save(COLOURS, "PNG")
    position = png.index(b"IDAT") - 4
    np.testing.assert_array_equal(decode(png[:position] + empty * 1000 + png[position:]), COLOURS)
    with pytest.raises(BadImage, match="chunks"):
        decode(png[:position] + empty * 99_990 + png[position:])


@pytest.mark.slow
def test_opened_pngs_of_many_empty_chunks_take_no_memory(peak_memory: Any) -> None:
    empty = struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))
    png = save(SMOOTH, "PNG")
    position = png.index(b"IDAT") - 4
    data = png[:position] + empty * 4995 + png[position:-12] + empty * 4995 + png[-12:]
    assert peak_memory(lambda: [open_image(data) for _ in range(64)]) < 64 * len(data)
    np.testing.assert_array_equal(decode(data), SMOOTH)
