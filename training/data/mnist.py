"""MNIST, dynamically binarized (LeCun et al., 1998), and Fashion-MNIST (Xiao et al., 2017), both from IDX files."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from training.data.archive import Archive, RemoteFile, StoredArray
from training.data.dataset import DatasetError, Pixels, binarize_heldout

__all__ = ["DYNAMIC_MNIST", "FASHION_MNIST", "read_idx"]

MNIST_HOME = "https://ossci-datasets.s3.amazonaws.com/mnist"
FASHION_HOME = "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion"
NUM_VALID = 10_000
MAGIC = bytes([0, 0, 8, 3])
"""Start of an IDX file of images: two zeros, the code of unsigned bytes, the number of dimensions."""
HEADER_BYTES = 16


def read_idx(path: Path) -> Pixels:
    """Images (N, H, W) of an IDX file, gzipped or plain; raises `DatasetError` if it is damaged or another file.

    The header is the magic number and three sizes of four bytes each, big-endian; then come the bytes of the pixels.
    """
    content = path.read_bytes()
    if content.startswith(b"\x1f\x8b"):
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error) as error:
            raise DatasetError(f"{path} cannot be unpacked: {error}") from error
    if not content.startswith(MAGIC):
        raise DatasetError(
            f"{path}: an IDX file of images begins with {MAGIC.hex()}, but this one begins with {content[:4].hex()}"
        )
    if len(content) < HEADER_BYTES:
        raise DatasetError(f"{path}: the header of an IDX file has {HEADER_BYTES} bytes, but this file {len(content)}")
    shape = tuple(int.from_bytes(content[start : start + 4], "big") for start in range(4, HEADER_BYTES, 4))
    wanted = HEADER_BYTES + shape[0] * shape[1] * shape[2]
    if len(content) != wanted:
        raise DatasetError(
            f"{path}: images of shape {shape} take an IDX file of {wanted} bytes, but this one has {len(content)}"
        )
    return np.frombuffer(content, np.uint8, offset=HEADER_BYTES).reshape(shape)


def _convert(paths: Mapping[str, Path]) -> dict[str, Pixels]:
    """The last training images are for validation."""
    images = read_idx(paths["train"])
    return {"train": images[:-NUM_VALID], "valid": images[-NUM_VALID:], "test": read_idx(paths["test"])}


DYNAMIC_MNIST = Archive(
    name="dynamic_mnist",
    summary="MNIST binarized anew at every visit, 28x28, 50000 / 10000 / 10000 images",
    file="mnist.npz",
    arrays={
        "train": StoredArray((50000, 28, 28), "c80ceb24eedca80f31cfca280b8fb911cbb41b9990f998bebd40e26b1ab6d0f8"),
        "valid": StoredArray((10000, 28, 28), "2b079632b0defaf508a5ebf8c4ac1e18ce15c8b337da087e9c3e1c84c618d244"),
        "test": StoredArray((10000, 28, 28), "6d87418db22cc8025d05968bec9bd5c3932904b23485740db143a061a2c9d161"),
    },
    downloads={
        "train": RemoteFile(
            f"{MNIST_HOME}/train-images-idx3-ubyte.gz",
            "sha256:440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
        ),
        "test": RemoteFile(
            f"{MNIST_HOME}/t10k-images-idx3-ubyte.gz",
            "sha256:8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
        ),
    },
    convert=_convert,
    prepare=binarize_heldout,
    levels=1,
    dynamic=True,
)

FASHION_MNIST = Archive(
    name="fashion_mnist",
    summary="articles of clothing, 28x28, 50000 / 10000 / 10000 images, gray",
    file="fashion_mnist.npz",
    arrays={
        "train": StoredArray((50000, 28, 28), "0a8ba65008484d4904cd260c7f0385a17a7468ab1df51c36368300fa206ac2c8"),
        "valid": StoredArray((10000, 28, 28), "36c6e3dcb65f0d5f66123bdf3a6fa7839bb1198f24efa344724200bc92c0bbf0"),
        "test": StoredArray((10000, 28, 28), "c867c93ff95360594e8ec3287995350b824dd110b11595c0e13d5423f621867a"),
    },
    downloads={
        "train": RemoteFile(
            f"{FASHION_HOME}/train-images-idx3-ubyte.gz",
            "sha256:3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
        ),
        "test": RemoteFile(
            f"{FASHION_HOME}/t10k-images-idx3-ubyte.gz",
            "sha256:346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
        ),
    },
    convert=_convert,
    levels=255,
)
