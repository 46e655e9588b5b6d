"""Validation pictures: the same ones whatever else there is, and no copy of them among those trained on."""

import io

import numpy as np
from PIL import Image

from model_store.imaging import sample_picture, upright_pixels
from model_store.training.split import difference_hash, file_hash, near_groups, validation_mask


def test_a_picture_stays_on_its_side_when_others_come_or_go() -> None:
    hashes = [file_hash(str(i).encode(), 1) for i in range(2000)]
    whole = validation_mask(hashes, np.arange(2000))
    half = validation_mask(hashes[::2], np.arange(1000))
    np.testing.assert_array_equal(whole[::2], half)
    assert 0.12 < whole.mean() < 0.18
    other_seed = validation_mask([file_hash(str(i).encode(), 2) for i in range(2000)], np.arange(2000))
    assert (whole != other_seed).any()


def test_a_group_is_on_one_side_in_any_order() -> None:
    hashes = [file_hash(str(i).encode(), 1) for i in range(300)]
    groups = np.arange(300) // 3 * 3
    mask = validation_mask(hashes, groups)
    np.testing.assert_array_equal(mask, np.repeat(mask[::3], 3))
    shuffled = np.random.default_rng(0).permutation(300)
    again = validation_mask([hashes[i] for i in shuffled], groups[shuffled])
    np.testing.assert_array_equal(again, mask[shuffled])


def test_another_quality_and_brightness_are_near_another_picture_is_not() -> None:
    data = sample_picture("PNG", 640, 640, grain=10)
    picture = Image.open(io.BytesIO(data))
    poor = io.BytesIO()
    picture.resize((200, 200)).point(lambda v: 0.8 * v + 10).save(poor, "JPEG", quality=40)
    other = Image.fromarray(np.asarray(picture).transpose(1, 0, 2))
    hashes = np.stack(
        [
            difference_hash(upright_pixels(data)),
            difference_hash(np.asarray(other)),
            difference_hash(upright_pixels(poor.getvalue())),
        ]
    )
    assert near_groups(hashes).tolist() == [0, 1, 0]


def test_nearness_is_passed_on() -> None:
    hashes = np.zeros((4, 4), np.uint64)
    hashes[1, 0], hashes[2, 0] = 0b1111, 0b1111_1111  # 4 bits apart, one after the other
    hashes[3] = 2**64 - 1
    assert near_groups(hashes, near=4).tolist() == [0, 0, 0, 3]
    assert near_groups(hashes, near=3).tolist() == [0, 1, 2, 3]
