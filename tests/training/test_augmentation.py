from __future__ import annotations

import torch

from training.augmentation import augment

IMAGES = torch.arange(2 * 3 * 32 * 20).remainder(251).to(torch.uint8).reshape(2, 3, 32, 20)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_no_changes_change_nothing_and_draw_no_numbers() -> None:
    generator = seeded()
    assert augment(IMAGES, (), generator) is IMAGES
    assert torch.equal(generator.get_state(), seeded().get_state())


def test_a_flip_swaps_left_and_right_of_about_half_of_the_images() -> None:
    images = IMAGES[:1].expand(200, -1, -1, -1)
    changed = augment(images, ("flip",), seeded())
    flipped = (changed == images.flip(-1)).flatten(1).all(1)
    same = (changed == images).flatten(1).all(1)
    assert torch.equal(flipped, ~same)
    assert 70 <= int(flipped.sum()) <= 130  # 100 +- 4 standard deviations


def test_a_shift_moves_by_up_to_a_sixteenth_and_repeats_the_edge() -> None:
    images = IMAGES[:1].expand(300, -1, -1, -1)
    changed = augment(images, ("shift",), seeded())
    padded = torch.nn.functional.pad(IMAGES[:1].float(), (1, 1, 2, 2), mode="replicate").to(torch.uint8)
    windows = {
        (row, column): padded[0, :, row : row + 32, column : column + 20] for row in range(5) for column in range(3)
    }
    seen = {
        next(shift for shift, window in windows.items() if torch.equal(window, image)) for image in changed.unbind()
    }
    assert seen == set(windows)


def test_equal_seeds_give_equal_changes() -> None:
    first, second, third = (augment(IMAGES.repeat(20, 1, 1, 1), ("shift", "flip"), seeded(n)) for n in (1, 1, 2))
    assert torch.equal(first, second)
    assert not torch.equal(first, third)
