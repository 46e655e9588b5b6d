"""What file names and tables say, and what is not read of them."""

import numpy as np
import pytest

from model_store.faces import ATTRIBUTES
from model_store.training.labels import DataError, age_of, read_attributes

HEADER = ",".join(("image_id", *ATTRIBUTES))


@pytest.mark.parametrize(
    ("name", "age"),
    [
        ("100_1_0_20170110183726390.jpg.chip.jpg", 100),
        ("1_0_2_20161219140530307.jpg.chip.jpg", 1),
        ("part/61_1_20170109142408075.jpg.chip.jpg", 61),  # a field is missing; the age is there
        ("0_1_2_20161219.jpg", None),
        ("readme.txt", None),
        ("000001.jpg", None),
    ],
)
def test_the_age_is_the_first_number_of_a_name(name: str, age: int | None) -> None:
    assert age_of(name) == age


def test_attributes_in_the_order_of_the_outputs() -> None:
    values = [i % 2 for i in range(40)]
    row = "a.jpg," + ",".join(map(str, values))
    (found,) = read_attributes([HEADER, row]).values()
    np.testing.assert_array_equal(found, values)


def test_columns_may_come_in_any_order_and_minus_one_is_no() -> None:
    names = [*reversed(ATTRIBUTES), "image_id"]
    row = ",".join(["-1"] * 39 + ["1", "a.jpg"])
    found = read_attributes([",".join(names), row])["a.jpg"]
    assert found[0] == 1
    assert found[1:].sum() == 0


def test_a_missing_column_and_a_strange_value_are_named() -> None:
    with pytest.raises(DataError, match="no column Young"):
        read_attributes([HEADER.removesuffix(",Young"), "a.jpg" + ",0" * 39])
    with pytest.raises(DataError, match=r"a\.jpg"):
        read_attributes([HEADER, "a.jpg" + ",0" * 39 + ",yes"])
