"""The one scale that variants of a task are ranked on."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_store.manifest import Accuracy, Precision, QuantizedFrom, VariantManifest
from model_store.ranking import ASSUMED_LOSS, expected_accuracies
from tests.model_store.manifests import accuracy, variant


def test_published_figures_rank_as_they_are() -> None:
    one, other = variant(quoted=accuracy(0.709)), variant(0.5, 160, quoted=accuracy(0.591), weights="b")
    assert expected_accuracies([one, other]) == {one.id: 0.709, other.id: 0.591}


def test_a_measurement_is_scaled_by_what_published_variants_lose_there() -> None:
    """0.8 on easier pictures where the full set gives 0.709: 0.72 there is worth 0.638."""
    easy = "easy subset"
    published = variant(quoted=accuracy(0.709), measured=accuracy(0.8, "measured", easy))
    only_measured = accuracy(0.72, "measured", easy)
    other = variant(0.5, 224, quoted=only_measured, measured=only_measured, weights="b")
    assert expected_accuracies([published, other])[other.id] == pytest.approx(0.72 * 0.709 / 0.8)


def test_a_measurement_without_a_scale_counts_for_no_more_than_the_official_figure() -> None:
    """The official 0.5_224 has 63.3 %."""
    easier, harder = accuracy(0.9, "measured", "x"), accuracy(0.4, "measured", "x")
    assert expected_accuracies([variant(0.5, quoted=easier)]) == {variant(0.5).id: 0.633}
    assert expected_accuracies([variant(0.5, quoted=harder)]) == {variant(0.5).id: 0.4}


@pytest.mark.parametrize(("precision", "official"), [("fp32", 0.415), ("int8", 0.399)])
def test_without_any_figure_the_official_one_stands_in(precision: Precision, official: float) -> None:
    unknown = variant(0.25, 128, precision)
    assert expected_accuracies([unknown]) == {unknown.id: pytest.approx(official)}


def test_below_their_training_resolution_weights_rank_no_higher_than_there() -> None:
    """The real case: 0.802 at 192 against 0.800 at 224 over 510 pictures is chance."""
    at_224, at_192 = accuracy(0.8, "measured", "easy"), accuracy(0.802, "measured", "easy")
    trained = variant(quoted=accuracy(0.709), measured=at_224, trained=224)
    lower = variant(resolution=192, quoted=at_192, measured=at_192, trained=224)
    ranks = expected_accuracies([lower, trained])
    assert ranks[lower.id] <= ranks[trained.id] == 0.709


def test_other_weights_are_not_held_down() -> None:
    """192 trained at 192 may well beat another 224."""
    poor = variant(0.5, 224, quoted=accuracy(0.5), trained=224)
    good = variant(0.5, 192, quoted=accuracy(0.6), trained=192, weights="b")
    assert expected_accuracies([poor, good])[good.id] == 0.6


@given(st.floats(0.01, 1), st.floats(0.01, 1), st.floats(0.01, 1))
def test_ranks_are_fractions_and_keep_the_order_of_the_measurements(
    published: float, there: float, measured: float
) -> None:
    known = variant(quoted=accuracy(published), measured=accuracy(there, "measured", "x"))
    better, worse = accuracy(measured, "measured", "x"), accuracy(measured / 2, "measured", "x")
    one = variant(0.5, 192, quoted=better, weights="b")
    other = variant(0.5, 160, quoted=worse, weights="c")
    ranks = expected_accuracies([known, one, other])
    assert all(0 <= rank <= 1 for rank in ranks.values())
    assert ranks[one.id] >= ranks[other.id]


def int8_of(
    source: VariantManifest, measured: Accuracy | None = None, sha256: str | None = None
) -> VariantManifest:
    made_from = QuantizedFrom(
        variant=source.id, sha256=sha256 or source.sha256, accuracy=source.accuracy, method="m"
    )
    twin = variant(source.alpha, source.resolution, "int8", quoted=measured, measured=measured)
    return twin.model_copy(update={"quantized_from": made_from, "origin": source.origin})


def test_unmeasured_int8_ranks_below_its_float_twin_by_what_others_lost() -> None:
    twin = variant(quoted=accuracy(0.709))
    quantised = int8_of(twin)
    expected = pytest.approx(0.709 - ASSUMED_LOSS)
    assert expected_accuracies([twin, quantised])[quantised.id] == expected
    assert expected_accuracies([quantised])[quantised.id] == expected  # its twin may be elsewhere
    other = int8_of(twin, sha256="1" * 64)  # or replaced by other weights, which say nothing of it
    assert expected_accuracies([variant(quoted=accuracy(0.3)), other])[other.id] == expected


def test_a_measured_loss_counts_where_both_were_measured_on_the_same_pictures() -> None:
    twin = variant(quoted=accuracy(0.709), measured=accuracy(0.8, "measured", "easy"))
    lost = int8_of(twin, accuracy(0.77, "measured", "easy"))
    assert expected_accuracies([twin, lost])[lost.id] == pytest.approx(0.709 - 0.03)
    elsewhere = int8_of(twin, accuracy(0.77, "measured", "other pictures"))
    assert expected_accuracies([twin, elsewhere])[elsewhere.id] == pytest.approx(0.709 - ASSUMED_LOSS)


@given(st.floats(0.01, 1), st.floats(0.01, 1), st.floats(0, 1))
def test_int8_never_ranks_as_high_as_what_it_was_made_from(published: float, ours: float, its: float) -> None:
    """A better measurement of the same weights with fewer bits is chance."""
    twin = variant(quoted=accuracy(published), measured=accuracy(ours, "measured", "x"))
    ranks = expected_accuracies([twin, int8_of(twin, accuracy(its, "measured", "x"))])
    assert 0 <= ranks[variant(precision="int8").id] < ranks[twin.id]
