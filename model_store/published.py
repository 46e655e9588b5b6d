"""The published figures of MobileNet v1 beside what the equations give.

Sources: tables 2 to 10 of the paper (arXiv 1704.04861), and the table of official checkpoints in
`sources.py`. A figure agrees when it is within one unit of its last printed digit, since the
authors round some figures and cut others. Each one that does not agree bears its reason.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from model_store.architecture import LayerKind, MobileNetSpec
from model_store.sources import OFFICIAL_CHECKPOINTS

_MILLION = 1e6


@dataclass(frozen=True, slots=True)
class Comparison:
    """One published figure and the computed one, both in `unit`."""

    source: str
    subject: str
    quantity: str
    unit: str
    published: float
    digits: int
    computed: float
    reason: str = ""

    @property
    def agrees(self) -> bool:
        return abs(self.computed - self.published) < 10.0**-self.digits


_REASONS: dict[tuple[str, str, str], str] = {
    ("table 2", "conv 3x3", "mult-adds"): (
        "digits transposed in print: with 1.91 the column sums to 100 %, with 1.19 to 99.3 %"
    ),
    ("table 4", "conv MobileNet 1.0-224", "mult-adds"): (
        "the printed figure leaves out the classifier (1.0 M)"
    ),
    ("table 10", "1.0 MobileNet-224, 120 dogs", "mult-adds"): (
        "printed for 1000 classes; 120 take 0.9 M less"
    ),
    ("official", "0.25_192", "mult-adds"): (
        "breaks its own row: mult-adds go with the resolution squared, 41 x (192/224)^2 = 30"
    ),
} | {
    ("official", f"0.75_{resolution}{suffix}", "mult-adds"): (
        f"leaves out the first convolution ({skipped} M), at alpha 0.75 only; the paper has it"
    )
    for resolution, skipped in ((224, 8.1), (192, 6.0), (160, 4.1), (128, 2.7))
    for suffix in ("", "_quant")
}
_REASONS["official", "0.25_192_quant", "mult-adds"] = _REASONS["official", "0.25_192", "mult-adds"]


def compare() -> Iterator[Comparison]:
    """Every published figure with the computed one, in the order of the sources."""
    yield from _layer_shares()
    yield from _single_layers()
    yield from _networks()
    yield from _checkpoints()


def _comparison(
    source: str, subject: str, quantity: str, unit: str, published: str, computed: float
) -> Comparison:
    digits = len(published.partition(".")[2])
    reason = _REASONS.get((source, subject, quantity), "")
    return Comparison(source, subject, quantity, unit, float(published), digits, computed, reason)


def _layer_shares() -> Iterator[Comparison]:
    shares: tuple[tuple[str, LayerKind, str, str], ...] = (
        ("conv 1x1", "pointwise", "94.86", "74.59"),
        ("conv dw 3x3", "depthwise", "3.06", "1.06"),
        ("conv 3x3", "convolution", "1.19", "0.02"),
        ("fully connected", "dense", "0.18", "24.33"),
    )
    spec = MobileNetSpec(1.0, 224)
    for subject, kind, mult_adds, parameters in shares:
        of_mult_adds, of_parameters = spec.shares(kind)
        yield _comparison("table 2", subject, "mult-adds", "%", mult_adds, 100 * of_mult_adds)
        yield _comparison("table 2", subject, "parameters", "%", parameters, 100 * of_parameters)


def _single_layers() -> Iterator[Comparison]:
    """Table 3: one 3x3 layer of 512 channels on a 14x14 map, as the multipliers shrink it."""
    rows = (
        ("convolution", 512, 14, False, "462", "2.36"),
        ("depthwise separable", 512, 14, True, "52.3", "0.27"),
        ("alpha 0.75", 384, 14, True, "29.6", "0.15"),
        ("rho 0.714", 384, 10, True, "15.1", "0.15"),
    )
    for subject, channels, size, separable, mult_adds, parameters in rows:
        # Equation 5 for the separable layer, equation 2 for the convolution.
        weights = 9 * channels + channels**2 if separable else 9 * channels**2
        computed = weights * size**2 / _MILLION
        yield _comparison("table 3", subject, "mult-adds", "M", mult_adds, computed)
        yield _comparison("table 3", subject, "parameters", "M", parameters, weights / _MILLION)


def _networks() -> Iterator[Comparison]:
    full, shallow = (MobileNetSpec(1.0, 224, body=body) for body in ("full", "shallow"))
    rows = (
        ("table 4", "conv MobileNet 1.0-224", full, "4866", "29.3"),
        ("table 4", "MobileNet 1.0-224", MobileNetSpec(1.0, 224), "569", "4.2"),
        ("table 5", "0.75 MobileNet-224", MobileNetSpec(0.75, 224), "325", "2.6"),
        ("table 5", "shallow MobileNet 1.0-224", shallow, "307", "2.9"),
        ("table 6", "1.0 MobileNet-224", MobileNetSpec(1.0, 224), "569", "4.2"),
        ("table 6", "0.75 MobileNet-224", MobileNetSpec(0.75, 224), "325", "2.6"),
        ("table 6", "0.5 MobileNet-224", MobileNetSpec(0.5, 224), "149", "1.3"),
        ("table 6", "0.25 MobileNet-224", MobileNetSpec(0.25, 224), "41", "0.5"),
        ("table 7", "1.0 MobileNet-224", MobileNetSpec(1.0, 224), "569", "4.2"),
        ("table 7", "1.0 MobileNet-192", MobileNetSpec(1.0, 192), "418", "4.2"),
        ("table 7", "1.0 MobileNet-160", MobileNetSpec(1.0, 160), "290", "4.2"),
        ("table 7", "1.0 MobileNet-128", MobileNetSpec(1.0, 128), "186", "4.2"),
        ("table 8", "1.0 MobileNet-224", MobileNetSpec(1.0, 224), "569", "4.2"),
        ("table 9", "0.5 MobileNet-160", MobileNetSpec(0.5, 160), "76", "1.32"),
        ("table 10", "1.0 MobileNet-224, 120 dogs", MobileNetSpec(1.0, 224, 120), "569", "3.3"),
        ("table 10", "0.75 MobileNet-224, 120 dogs", MobileNetSpec(0.75, 224, 120), "325", "1.9"),
        ("table 10", "1.0 MobileNet-192, 120 dogs", MobileNetSpec(1.0, 192, 120), "418", "3.3"),
        ("table 10", "0.75 MobileNet-192, 120 dogs", MobileNetSpec(0.75, 192, 120), "239", "1.9"),
    )
    for source, subject, spec, mult_adds, parameters in rows:
        computed = spec.mult_adds / _MILLION
        yield _comparison(source, subject, "mult-adds", "M", mult_adds, computed)
        computed = spec.parameters / _MILLION
        yield _comparison(source, subject, "parameters", "M", parameters, computed)


def _checkpoints() -> Iterator[Comparison]:
    for checkpoint in OFFICIAL_CHECKPOINTS:
        spec = MobileNetSpec(checkpoint.alpha, checkpoint.resolution)
        for quantity, published, computed in (
            ("mult-adds", str(checkpoint.million_mult_adds), spec.mult_adds),
            ("parameters", f"{checkpoint.million_parameters:.2f}", spec.checkpoint_parameters),
        ):
            yield _comparison("official", checkpoint.name, quantity, "M", published, computed / _MILLION)
