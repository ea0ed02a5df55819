"""Damaged images of every format: each is decoded or refused as the client's fault, in little memory."""

from __future__ import annotations

import io
import subprocess
import sys
import warnings
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from service.errors import Problem
from service.images import decode_image

patient = settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "png": ("RGBA", {"format": "PNG"}),
    "palette": ("P", {"format": "PNG", "transparency": 3}),
    "jpeg": ("RGB", {"format": "JPEG"}),
    "progressive": ("L", {"format": "JPEG", "progressive": True}),
    "inks": ("CMYK", {"format": "JPEG"}),
    "webp": ("RGB", {"format": "WEBP"}),
    "lossless": ("RGBA", {"format": "WEBP", "lossless": True}),
    "extended": ("RGBA", {"format": "WEBP", "exif": b"Exif\0\0MM\0*\0\0\0\x08\0\0"}),
}


def save(kind: str) -> bytes:
    mode, options = KINDS[kind]
    levels = np.add.outer(np.arange(24), np.arange(20)).astype(np.uint8) * 5
    buffer = io.BytesIO()
    image = Image.fromarray(np.stack([levels, levels[::-1], levels[:, ::-1], levels + 9], axis=-1)).convert(mode)
    image.save(buffer, **options)
    return buffer.getvalue()


FILES = {kind: save(kind) for kind in KINDS}


@st.composite
def damaged(draw: st.DrawFn, kind: str) -> bytes:
    """A file with some bytes changed, removed, repeated or added; most changes fall into the header."""
    data = bytearray(FILES[kind])
    for _ in range(draw(st.integers(1, 5))):
        position = draw(st.integers(0, min(100, len(data) - 1)) | st.integers(0, len(data) - 1))
        change = draw(st.sampled_from(["change", "remove", "repeat", "insert", "cut"]))
        if change == "change":
            data[position] = draw(st.integers(0, 255))
        elif change == "remove":
            del data[position : position + draw(st.integers(1, 9))]
        elif change == "repeat":
            data[position:position] = data[position : position + draw(st.integers(1, 99))] * draw(st.integers(1, 9))
        elif change == "insert":
            data[position:position] = draw(st.binary(min_size=1, max_size=9))
        else:
            del data[position + 1 :]
        if not data:
            break
    return bytes(data)


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_file_decodes_or_is_a_problem(kind: str) -> None:
    @patient
    @given(damaged(kind))
    def check(data: bytes) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            try:
                pixels = decode_image(data, max_pixels=10_000)
            except Problem as problem:
                assert problem.status in (413, 415, 422)  # noqa: PT017
                assert problem.detail.endswith(".")  # noqa: PT017
            else:
                assert pixels.dtype == np.uint8
                assert pixels.shape[2:] in [(), (3,)]
                assert pixels.shape[0] * pixels.shape[1] <= 10_000

    check()


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_upload_is_never_a_fault_of_the_service(client: httpx.Client, kind: str) -> None:
    @settings(patient, max_examples=30)
    @given(damaged(kind), st.sampled_from(["raw", "form"]))
    def check(data: bytes, way: str) -> None:
        if way == "raw":
            response = client.post("/encode?resize=true", content=data, headers={"Content-Type": "image/png"})
        else:
            response = client.post("/encode?resize=true", files={"file": data})
        assert response.status_code in (200, 413, 415, 422), response.text

    check()


MUTATE = """
import random, re, sys
from pathlib import Path
from service.errors import Problem
from service.images import decode_image

def peak():
    return 1024 * int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])

good = sys.stdin.buffer.read()
decode_image(good, max_pixels=10_000)
rng, before = random.Random(0), peak()
for _ in range(3000):
    data = bytearray(good)
    for _ in range(rng.randint(1, 4)):
        data[rng.randrange(min(len(data), rng.choice([60, 10_000])))] = rng.randrange(256)
    try:
        decode_image(bytes(data), max_pixels=10_000)
    except Problem:
        pass
print(peak() - before)
"""


@pytest.mark.parametrize("kind", ["png", "jpeg", "progressive", "webp", "lossless"])
def test_damaged_files_take_little_memory(kind: str) -> None:
    """10,000 pixels at the most are decoded, whatever size a damaged header claims."""
    process = subprocess.run([sys.executable, "-c", MUTATE], input=FILES[kind], check=True, capture_output=True)
    assert int(process.stdout) < 20_000_000


@patient
@given(st.binary(max_size=400), st.sampled_from(["application/json", "multipart/form-data; boundary=X"]))
def test_any_body_is_answered(client: httpx.Client, body: bytes, media_type: str) -> None:
    prefix = b'{"images":[' if media_type == "application/json" else b"--X\r\nContent-Disposition: form-data;"
    for content in (body, prefix + body):
        response = client.post("/encode", content=content, headers={"Content-Type": media_type})
        assert response.status_code in (413, 415, 422), response.text
