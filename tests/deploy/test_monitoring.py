"""The profile `monitoring`: what alerts and dashboard ask for the service tells, and all of it is locked."""

import itertools
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast, get_args

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

import service.metrics
from service.metrics import Metrics, Refusal, Stage
from service.schemas import Decision
from tests.deploy.promql import grouped_labels, selectors

ROOT = Path(__file__).resolve().parents[2]
MONITORING = ROOT / "deploy" / "monitoring"
PROMETHEUS = yaml.safe_load((MONITORING / "prometheus.yml").read_text())
RULES = [
    rule
    for group in yaml.safe_load((MONITORING / "alerts.yml").read_text())["groups"]
    for rule in group["rules"]
]
DASHBOARD = json.loads((MONITORING / "grafana" / "dashboards" / "mobilenet.json").read_text())
PANELS = DASHBOARD["panels"]
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES = COMPOSE["services"]
ADDED = [name for name, each in SERVICES.items() if each.get("profiles") == ["monitoring"]]


def _asked() -> Iterator[tuple[str, str, list[str]]]:
    """Who asks, every expression, and the labels that its summary or legend names."""
    for rule in RULES:
        yield rule["alert"], rule["expr"], re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"])
    for panel in PANELS:
        for target in panel["targets"]:
            named = re.findall(r"\{\{(\w+)\}\}", target.get("legendFormat", ""))
            yield f"{panel['title']} {target['refId']}", target["expr"], named


ASKED = list(_asked())

Told = dict[str, dict[str, set[str]]]


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Told:
    """Each metric that Prometheus has, its labels and their values, once all that can happen has."""
    monkeypatch.setattr(service.metrics, "cpu_hertz", lambda: {"cpu0": 1e9})
    monkeypatch.setattr(service.metrics, "celsius", lambda: {"thermal_zone0": 40.0})
    metrics = Metrics()
    variant = SimpleNamespace(id="mobilenet_v1_1.0_224_int8", task="imagenet")
    for decision, met in itertools.product(get_args(Decision), (True, False)):
        times = {"queue_ms": 1.0, "decode_ms": 2.0, "inference_ms": 3.0}
        outcome = SimpleNamespace(task=variant.task, variant=variant, decision=decision, **times)
        metrics.served(cast(Any, outcome), met)
    for reason in get_args(Refusal):
        metrics.refused(reason)
    for stage in get_args(Stage):
        metrics.cancelled(stage)
    metrics.loaded(cast(Any, variant))
    metrics.dropped(cast(Any, variant))

    found: Told = {}
    for family in text_string_to_metric_families(metrics.text().decode()):
        for sample in family.samples:
            for label, value in {**_scraped(), **sample.labels}.items():
                found.setdefault(sample.name, {}).setdefault(label, set()).add(value)
    return {**found, **_of_prometheus()}


def _scraped() -> dict[str, str]:
    """What Prometheus adds to all that it scrapes."""
    (job,) = PROMETHEUS["scrape_configs"]
    return {"job": job["job_name"], "instance": job["static_configs"][0]["targets"][0]}


def _of_prometheus() -> Told:
    """Its own metrics."""
    scraped = {label: {value} for label, value in _scraped().items()}
    alerts = {"alertname": {r["alert"] for r in RULES}, "severity": {r["labels"]["severity"] for r in RULES}}
    return {"up": scraped, "ALERTS": {**scraped, **alerts, "alertstate": {"pending", "firing"}}}


@pytest.mark.parametrize(("expression", "named"), [a[1:] for a in ASKED], ids=[a[0] for a in ASKED])
def test_what_is_asked_for_is_told(expression: str, named: list[str], told: Told) -> None:
    labels: set[str] = set()
    for selector in selectors(expression):
        assert selector.name in told, f"the service has no metric {selector.name}"
        labels |= told[selector.name].keys()
        for label, value in selector.matchers:
            assert value in told[selector.name].get(label, ()), f"{selector.name} never has {label}={value!r}"
    assert {*grouped_labels(expression), *named} <= labels


def test_all_that_the_service_tells_of_itself_is_on_the_dashboard(told: Told) -> None:
    shown = {s.name for panel in PANELS for target in panel["targets"] for s in selectors(target["expr"])}
    counted_or_timed = re.compile(r"_(created|count|sum)$")
    assert {n for n in told if n.startswith("mobilenet_") and not counted_or_timed.search(n)} <= shown


def test_each_metric_is_documented_with_its_labels_and_their_values(told: Told) -> None:
    documentation = (ROOT / "docs" / "monitoring.md").read_text()
    rows = dict(re.findall(r"^\| `(mobilenet_\w+)` (\|.+)$", documentation, re.MULTILINE))
    derived = re.compile(r"_(created|count|sum)$")
    own = {n: labels for n, labels in told.items() if n.startswith("mobilenet_") and not derived.search(n)}
    assert rows.keys() == {name.removesuffix("_bucket") for name in own}
    for name, labels in own.items():
        row = rows[name.removesuffix("_bucket")]
        for label in labels.keys() - _scraped().keys():
            assert f"`{label}`" in row, name
            # Variants, CPUs and zones are the device's; buckets are in the code.
            values = set() if label in {"task", "variant", "cpu", "zone", "le"} else labels[label]
            assert all(f"`{value}`" in row for value in values), (name, label)


def test_panels_lie_side_by_side() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in PANELS:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24, panel["title"]
        cells = set(itertools.product(range(at["x"], at["x"] + at["w"]), range(at["y"], at["y"] + at["h"])))
        assert not cells & taken, panel["title"]
        taken |= cells
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)


def test_an_alert_says_what_to_do_and_is_documented() -> None:
    documentation = (ROOT / "docs" / "monitoring.md").read_text()
    for rule in RULES:
        assert rule["labels"]["severity"] in {"page", "day"}
        assert "{{ $labels.instance }}" in rule["annotations"]["summary"]
        assert f"`{rule['alert']}`" in documentation


def test_grafana_finds_prometheus_and_looks_as_often_as_there_is_something_new() -> None:
    provisioning = MONITORING / "grafana" / "provisioning"
    (source,) = yaml.safe_load((provisioning / "datasources" / "prometheus.yml").read_text())["datasources"]
    assert source["jsonData"]["timeInterval"] == PROMETHEUS["global"]["scrape_interval"]
    assert source["url"] == "http://prometheus:9090"
    (provider,) = yaml.safe_load((provisioning / "dashboards" / "mobilenet.yml").read_text())["providers"]
    (mount,) = (v for v in SERVICES["grafana"]["volumes"] if v["type"] == "bind")
    dashboards = ROOT / mount["source"] / Path(provider["options"]["path"]).relative_to(mount["target"])
    assert [path.name for path in dashboards.iterdir()] == ["mobilenet.json"]


def test_prometheus_asks_the_service_by_the_name_and_port_that_it_has() -> None:
    name, port = _scraped()["instance"].split(":")
    assert SERVICES[name]["ports"] == [f"${{PORT:-8000}}:{port}"]
    (mount,) = (v for v in SERVICES["prometheus"]["volumes"] if v["type"] == "bind")
    (config,) = (c.split("=")[1] for c in SERVICES["prometheus"]["command"] if c.startswith("--config.file="))
    assert (ROOT / mount["source"] / Path(config).relative_to(mount["target"])).is_file()


@pytest.mark.parametrize("name", ADDED)
def test_what_the_profile_adds_is_locked_and_for_this_machine_only(name: str) -> None:
    added = SERVICES[name]
    assert added["read_only"]
    assert added["cap_drop"] == ["ALL"]
    assert added["security_opt"] == ["no-new-privileges:true"]
    assert added["mem_limit"] == added["memswap_limit"]
    assert int(added["user"].split(":")[0]) > 0
    assert all(port.startswith("127.0.0.1:") for port in added["ports"])
    assert re.fullmatch(r"\$\{[A-Z]+_IMAGE:-docker\.io/[a-z/]+:v?\d+\.\d+\.\d+\}", added["image"])
    assert all(v.get("read_only") for v in added["volumes"] if v["type"] == "bind")


def test_the_profile_adds_prometheus_and_grafana() -> None:
    assert ADDED == ["prometheus", "grafana"]


def test_grafana_does_not_start_with_the_password_that_everybody_knows() -> None:
    command = [part.replace("$$", "$") for part in SERVICES["grafana"]["entrypoint"]]

    def start(password: str) -> subprocess.CompletedProcess[str]:
        environment = {"PATH": os.environ["PATH"], "GF_SECURITY_ADMIN_PASSWORD": password}
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    refused = start("")
    assert refused.returncode != 0
    assert "set GRAFANA_PASSWORD" in refused.stderr
    assert "/run.sh" not in refused.stderr
    assert "/run.sh" in start("a secret").stderr  # it goes on to Grafana, which is not here


@pytest.mark.parametrize(
    "command",
    [
        ("check", "config", "deploy/monitoring/prometheus.yml"),
        ("test", "rules", "tests/deploy/alerts_test.yml"),
    ],
)
def test_prometheus_takes_the_files_and_alerts_fire_when_they_should(command: tuple[str, ...]) -> None:
    if shutil.which("promtool") is None and "REQUIRE_PROMTOOL" not in os.environ:
        pytest.skip("promtool is not installed; it comes with Prometheus")
    done = subprocess.run(["promtool", *command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
