"""How long a request will take with each variant: the device's profile, as milliseconds."""

from collections.abc import Mapping

from model_store.imaging import ImageHeader
from model_store.manifest import Preprocessing
from model_store.profile import DecodeCost, DeviceProfile, Quantiles, decode_key
from service.catalog import LoadedVariant
from service.planner import Candidate

# Handing over, serialising and sending the answer, beside decoding and inference.
OVERHEAD_MS = 1.0


class LatencyEstimates:
    """Predictions for the variants of a profile. Times are 95th percentiles where there is one."""

    def __init__(self, profile: DeviceProfile) -> None:
        self._inference: Mapping[str, Quantiles] = profile.inference
        self._decode: Mapping[str, DecodeCost] = profile.decode

    def profiled(self, variant: LoadedVariant) -> Quantiles:
        """The profile's inference times."""
        return self._inference[variant.key]

    def decode_ms(self, header: ImageHeader, size: int, preprocessing: Preprocessing) -> float:
        cost = self._decode[decode_key(header.format, header.scale(size, preprocessing))]
        return cost.predict_ms(header)

    def candidates(
        self, variants: tuple[LoadedVariant, ...], header: ImageHeader, preprocessing: Preprocessing
    ) -> list[Candidate]:
        """What the planner chooses from, for a picture of this header."""
        return [
            Candidate(
                variant=v,
                top1=v.top1,
                cost_ms=OVERHEAD_MS
                + self.decode_ms(header, v.manifest.resolution, preprocessing)
                + self._inference[v.key].p95,
            )
            for v in variants
        ]
