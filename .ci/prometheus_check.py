"""Asks a running Prometheus whether it finds the service and can evaluate the alerts.

Called by `.ci/containers`, which has started both. Ends with an AssertionError that says what is wrong.
"""

import argparse
import time
from typing import Any

import httpx

# It asks the service, and evaluates the alerts, every 15 s.
PATIENCE_S = 60.0


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    with httpx.Client(base_url=f"http://127.0.0.1:{parser.parse_args().port}/api/v1", timeout=10) as http:
        deadline = time.monotonic() + PATIENCE_S
        while found := problems(http):
            assert time.monotonic() < deadline, "; ".join(found)
            time.sleep(1)
        print(f"Prometheus finds {resident(http)} variants, and nothing to alert")


def resident(http: httpx.Client) -> int:
    """By its latest look at the service, which may be of before that was ready."""
    return sum(
        int(r["value"][1]) for r in answer(http, "/query", query="mobilenet_resident_variants")["result"]
    )


def problems(http: httpx.Client) -> list[str]:
    """What is not as it should be, or not yet."""
    targets = answer(http, "/targets")["activeTargets"]
    rules = [rule for group in answer(http, "/rules")["groups"] for rule in group["rules"]]
    assert targets, "it has nothing to ask"
    assert rules, "it has no alerts"
    variants = resident(http)
    return [
        *([f"it finds {variants} variants"] if variants < 4 else []),
        *(f"{t['scrapeUrl']} is {t['health']}: {t['lastError']}" for t in targets if t["health"] != "up"),
        *(f"{r['name']} is {r['health']}: {r.get('lastError')}" for r in rules if r["health"] != "ok"),
        *(f"{r['name']} is {r['state']}" for r in rules if r["state"] != "inactive"),
    ]


def answer(http: httpx.Client, path: str, **parameters: str) -> Any:
    return http.get(path, params=parameters).raise_for_status().json()["data"]


if __name__ == "__main__":
    main()
