"""MNIST, dynamically binarized (LeCun et al., 1998), and Fashion-MNIST (Xiao et al., 2017), which is made like it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from training.data.archives import Archive, Origin, StoredArray
from training.data.binarization import binarize_heldout
from training.data.checksums import Sha256
from training.data.downloads import RemoteFile
from training.data.idx import read_idx
from training.data.splits import Pixels

__all__ = ["DYNAMIC_MNIST", "FASHION_MNIST"]

MNIST_HOME = "https://ossci-datasets.s3.amazonaws.com/mnist"
FASHION_HOME = "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion"
NUM_VALID = 10_000


def _convert(paths: Mapping[str, Path]) -> dict[str, Pixels]:
    """The last training images validate."""
    images = read_idx(paths["train"])
    return {"train": images[:-NUM_VALID], "valid": images[-NUM_VALID:], "test": read_idx(paths["test"])}


def _origin(home: str, train_sha256: str, test_sha256: str) -> Origin:
    return Origin(
        files={
            "train": RemoteFile(f"{home}/train-images-idx3-ubyte.gz", Sha256(train_sha256)),
            "test": RemoteFile(f"{home}/t10k-images-idx3-ubyte.gz", Sha256(test_sha256)),
        },
        convert=_convert,
    )


DYNAMIC_MNIST = Archive(
    name="dynamic_mnist",
    summary="MNIST binarized afresh at every visit, 28x28, 50000 / 10000 / 10000 images",
    file="mnist.npz",
    arrays={
        "train": StoredArray((50000, 28, 28), "c80ceb24eedca80f31cfca280b8fb911cbb41b9990f998bebd40e26b1ab6d0f8"),
        "valid": StoredArray((10000, 28, 28), "2b079632b0defaf508a5ebf8c4ac1e18ce15c8b337da087e9c3e1c84c618d244"),
        "test": StoredArray((10000, 28, 28), "6d87418db22cc8025d05968bec9bd5c3932904b23485740db143a061a2c9d161"),
    },
    origin=_origin(
        MNIST_HOME,
        train_sha256="440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
        test_sha256="8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
    ),
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
    origin=_origin(
        FASHION_HOME,
        train_sha256="3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
        test_sha256="346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
    ),
    levels=255,
)
