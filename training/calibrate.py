"""`python -m training calibrate`: write a calibration beside the weights of a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer

from training.calibration import Binarize, Calibrator, Images, load_images
from training.checkpoints import find_checkpoint
from training.data import DatasetError
from training.machine import default_max_bytes, select_device
from training.terminal import DataDir, Device, Store, Threads, console, interruptible, show_draws
from vampprior.calibration import DEFAULT_NAME, CalibrationError
from vampprior.novelty import NUM_SAMPLES

__all__ = ["calibrate", "calibrate_by_default"]


def calibrate(
    checkpoint: Annotated[
        str, typer.Argument(help="Folder of a checkpoint, or its name or name@version in the store.")
    ],
    images: Annotated[
        Path | None,
        typer.Option(help="Folder or .npz file of your own normal images, instead of the validation images."),
    ] = None,
    name: Annotated[
        str, typer.Option(help="Name of the calibration; your own images need one other than default.")
    ] = DEFAULT_NAME,
    binarize: Annotated[
        Binarize,
        typer.Option(
            help="How your own gray images become black and white for a binary model: threshold, at one half; or "
            "sample, white with the probability that the gray level says. Requests must then ask for the same."
        ),
    ] = Binarize.THRESHOLD,
    num_samples: Annotated[int, typer.Option(min=1, help="Draws of the latents per image.")] = NUM_SAMPLES,
    seed: Annotated[
        int, typer.Option(min=0, max=2**32 - 1, help="Seed of all noise, of the folds and of sampled pixels.")
    ] = 0,
    data_dir: DataDir = None,
    store: Store = Path("model_store"),
    device: Device = "auto",
    threads: Threads = 0,
) -> None:
    """Score images that a checkpoint was not trained on, so that new images can be compared with them.

    Writes calibration.safetensors, or calibration-NAME.safetensors for your
    own images, beside the weights, and names the file in the card.
    """
    if (images is None) != (name == DEFAULT_NAME):
        raise CalibrationError(
            f"--images and --name go together: {DEFAULT_NAME} is the calibration of the validation images, and that of "
            "your own images needs another name"
        )
    folder = find_checkpoint(checkpoint, store)
    with interruptible(lambda: "nothing was written"):
        machine = select_device(device, threads)
        calibrator = Calibrator(folder, machine, default_max_bytes(machine), name, num_samples, seed)
        _run(calibrator, load_images(calibrator.card, images, data_dir, binarize, seed))


def calibrate_by_default(folder: Path, images: Images, device: torch.device) -> None:
    """Calibrate a checkpoint on its validation images, as `train` and `evaluate` do at their end.

    Prints a line, and writes nothing, if there are too few images.
    """
    try:
        images.check()
    except DatasetError as error:
        print(f"not calibrated: {error}")
        return
    _run(Calibrator(folder, device, default_max_bytes(device)), images)


def _run(calibrator: Calibrator, images: Images) -> None:
    total = calibrator.num_draws(len(images.pixels))
    with show_draws(console(), total) as show:
        calibration = calibrator.run(images, show)
    calibrator.write(calibration)
    print(f"{calibrator.path}: {len(calibration):,} images, {calibration.num_samples} samples each", flush=True)
