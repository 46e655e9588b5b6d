"""What `GET /v1/variants`, `/v1/tiers` and the health checks tell."""

import httpx

from bench.random_store import IDS


def test_variants_are_told_with_cost_accuracy_and_latency(client: httpx.Client) -> None:
    found = client.get("/v1/variants").json()["variants"]
    assert [v["id"] for v in found] == IDS
    best = found[0]
    assert best["task"] == "imagenet"
    assert (best["alpha"], best["rho"], best["resolution"]) == (1.0, 1.0, 224)
    assert (best["mult_adds"], best["parameters"]) == (568_740_352, 4_209_088)
    assert best["loaded"] is True
    assert best["provider"] == "CPUExecutionProvider"
    assert best["accuracy"] is None  # random weights: nothing is claimed for them
    for v in found:
        assert 0 < v["latency_ms"]["p50"] <= v["latency_ms"]["p95"]
    p50 = [v["latency_ms"]["p50"] for v in found]
    assert p50 == sorted(p50, reverse=True)
    assert client.get("/v1/variants?task=imagenet").json()["variants"] == found


def test_tiers_tell_their_budget_and_variant(client: httpx.Client) -> None:
    tiers = {t["name"]: t for t in client.get("/v1/tiers").json()["tiers"]}
    assert {name: t["latency_budget_ms"] for name, t in tiers.items()} == {
        "realtime": 20, "interactive": 100, "relaxed": 1000,
    }  # fmt: skip
    assert tiers["relaxed"]["variant"] == IDS[0]


def test_health(client: httpx.Client) -> None:
    assert client.get("/livez").status_code == 200
    assert client.get("/readyz").json() == {"status": "ready"}


def test_the_openapi_document_describes_the_body_and_the_parameters(client: httpx.Client) -> None:
    operation = client.get("/openapi.json").json()["paths"]["/v1/classify"]["post"]
    assert {p["name"] for p in operation["parameters"]} == {
        "latency_budget_ms", "tier", "task", "variant", "top_k", "on_miss",
    }  # fmt: skip
    assert "multipart/form-data" in operation["requestBody"]["content"]
    assert client.get("/docs").status_code == 200
