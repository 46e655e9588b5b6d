"""What an operator sees: Prometheus counters and histograms, of all processes that share the port.

Several processes write their figures to files in a folder that the supervisor names in the environment, and
whichever is asked adds them up: prometheus_client's multiprocess mode, in which gauges have to be set.
"""

import functools
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.metrics_core import GaugeMetricFamily
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from model_store.device import celsius, cpu_hertz
from model_store.manifest import VariantManifest

if TYPE_CHECKING:
    from service.outcomes import Outcome

SHARED_FOLDER = "PROMETHEUS_MULTIPROC_DIR"  # prometheus_client reads it when it is imported

# Values of labels: dashboards and alerts name them.
Refusal = Literal["full", "late", "costly", "infeasible", "expired"]
Phase = Literal["queue", "decode", "inference"]
Stage = Literal["waiting", "running"]

_BUCKETS_S = (0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1, 2.5, 5)


class Metrics:
    """A registry of its own for each app, so that two in one process do not mix."""

    def __init__(self) -> None:
        registry = CollectorRegistry()
        self._folder = os.environ.get(SHARED_FOLDER)
        self._answers = Counter(
            "mobilenet_answers", "Pictures answered", ["task", "variant", "decision", "met"],
            registry=registry,
        )  # fmt: skip
        self._answered = functools.cache(self._answers.labels)
        self._refusals = Counter(
            "mobilenet_refusals", f"Pictures refused: {', '.join(get_args(Refusal))}", ["reason"],
            registry=registry,
        )  # fmt: skip
        self._cancelled = Counter(
            "mobilenet_cancelled", "Clients that left while waiting or running", ["stage"], registry=registry
        )
        self._preempted = Counter(
            "mobilenet_preemptions",
            "Pictures in a hurry, run ahead of one that had started",
            registry=registry,
        )
        self._pairs = Counter(
            "mobilenet_pairs", "Runs that answered two pictures without a budget", registry=registry
        )
        phases = Histogram(
            "mobilenet_phase_seconds", "Time of each phase", ["phase"], buckets=_BUCKETS_S, registry=registry
        )
        self._phases = {f"{phase}_ms": phases.labels(phase) for phase in get_args(Phase)}
        self._length = Gauge(
            "mobilenet_queue_length", "Pictures that wait", registry=registry, multiprocess_mode="livesum"
        )
        self._bytes = Gauge(
            "mobilenet_queue_bytes", "Bytes of pictures that wait",
            registry=registry, multiprocess_mode="livesum",
        )  # fmt: skip
        self._residents = Gauge(
            "mobilenet_resident_variants", "Variants in memory, of all processes",
            registry=registry, multiprocess_mode="livesum",
        )  # fmt: skip
        self._loads = Counter(
            "mobilenet_variant_loads", "Variants brought into memory, where it does not hold all",
            ["task", "variant"], registry=registry,
        )  # fmt: skip
        self._drops = Counter(
            "mobilenet_variant_drops", "Variants dropped from memory to make room", ["task", "variant"],
            registry=registry,
        )  # fmt: skip
        self._slowdown = Gauge(
            "mobilenet_slowdown_ratio",
            "Median of what workers take of late to what was measured first: above 1 where the device is "
            "throttled, or others use its cores; of several processes that of the slowest",
            registry=registry,
            multiprocess_mode="livemax",
        )
        self._slowdown.set(1)
        self._wait = Gauge(
            "mobilenet_wait_ratio",
            "What admission reckons that waiting pictures take, to what they are expected to: it rises when "
            "promises break; of several processes the largest",
            registry=registry,
            multiprocess_mode="livemax",
        )
        self._wait.set(1)
        if self._folder is None:
            # Memory, CPU time and start. Of several processes, whichever is asked would tell its own.
            ProcessCollector(registry=registry)
        else:
            registry = CollectorRegistry()
            MultiProcessCollector(registry, self._folder)  # type: ignore[no-untyped-call]
        registry.register(_Sensors())
        self._registry = registry

    def waiting(self, length: int, size_bytes: int) -> None:
        self._length.set(length)
        self._bytes.set(size_bytes)

    def slowed(self, ratio: float) -> None:
        self._slowdown.set(ratio)

    def reckoned(self, ratio: float) -> None:
        self._wait.set(ratio)

    def resident(self, count: int) -> None:
        """At the start: from then on what is loaded and dropped tells."""
        self._residents.set(count)

    def loaded(self, variant: VariantManifest) -> None:
        self._loads.labels(variant.task, variant.id).inc()
        self._residents.inc()

    def dropped(self, variant: VariantManifest) -> None:
        self._drops.labels(variant.task, variant.id).inc()
        self._residents.dec()

    def served(self, outcome: "Outcome[Any]", met: bool) -> None:
        # Not what is told: what no budget was sure to hold is kept apart, whether luck met it or not.
        self._answered(outcome.task, outcome.variant.id, outcome.decision, str(met).lower()).inc()
        for took_ms, histogram in self._phases.items():
            histogram.observe(getattr(outcome, took_ms) / 1e3)

    def refused(self, reason: Refusal) -> None:
        self._refusals.labels(reason).inc()

    def preempted(self) -> None:
        self._preempted.inc()

    def paired(self) -> None:
        self._pairs.inc()

    def cancelled(self, stage: Stage) -> None:
        self._cancelled.labels(stage).inc()

    def text(self) -> bytes:
        """In Prometheus' text format."""
        return generate_latest(self._registry)


class _Sensors(Collector):
    """What the kernel tells of the device at each scrape; nothing where it tells nothing."""

    def collect(self) -> Iterator[GaugeMetricFamily]:
        clocks = GaugeMetricFamily("mobilenet_cpu_frequency_hertz", "Clock of each CPU now", labels=["cpu"])
        heat = GaugeMetricFamily("mobilenet_temperature_celsius", "Of each thermal zone", labels=["zone"])
        for family, values in ((clocks, cpu_hertz()), (heat, celsius())):
            for name, value in values.items():
                family.add_metric([name], value)
            if values:
                yield family
