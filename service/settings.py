"""Every knob of the service, with its unit and bounds. `docs/settings.md` is made from this file."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, SecretStr, StringConstraints, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

PREFIX = "MOBILENET_"
# Variables of our prefix that other programs of this project read.
_OF_OTHERS = frozenset({"MOBILENET_SOURCE_URL"})

TierName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_-]{0,31}$")]
BudgetMs = Annotated[float, Field(gt=0, le=600_000)]


class SettingsError(Exception):
    """The configuration cannot be used; the text says which variable and why."""


class Settings(BaseSettings):
    """Read from `MOBILENET_*` variables; command-line options of `mobilenet-service` take precedence."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid")

    host: str = Field("127.0.0.1", description="Address to listen on; 0.0.0.0 for all.")
    port: int = Field(8000, ge=0, le=65535, description="TCP port; 0 picks a free one.")
    workers: int = Field(1, ge=1, le=64, description="Server processes that share the port.")
    threads: int = Field(
        0, ge=0, le=256, description="Inference threads a process; 0 means one for each usable CPU."
    )
    store: Path = Field(Path(".store"), description="The model store; it is only read.")
    state_dir: Path = Field(
        default_factory=lambda: _default_state_dir(os.environ),
        description="Where self-tests and measured latencies are kept between starts.",
    )
    max_body_bytes: int = Field(
        20 << 20, ge=1024, le=1 << 30, description="Largest request body, in bytes; never more than may wait."
    )
    max_pixels: int = Field(
        50_000_000,
        ge=1024,
        le=1_000_000_000,
        description="Largest picture, in pixels of its header; "
        "less under a memory limit, but for JPEGs of one scan.",
    )
    queue_length: int = Field(
        256, ge=1, le=100_000, description="Most requests that wait for a worker, in each process."
    )
    queue_bytes: int = Field(
        256 << 20,
        ge=1024,
        le=1 << 36,
        description="Most bytes of pictures that wait for a worker, in each process; less under a memory "
        "limit.",
    )
    memory_limit_mb: int = Field(
        0, ge=0, le=1 << 24,
        description="Resident memory of all processes, in MiB; 0 means that of the cgroup, if any.",
    )  # fmt: skip
    tiers: dict[TierName, BudgetMs] = Field(
        {"realtime": 20, "interactive": 100, "relaxed": 1000},
        description="Named latency budgets in milliseconds, as a JSON object, in place of these: above 0, "
        "at most 600000. Names are lower-case letters, digits, `_` and `-`, a letter first, at most 32.",
    )
    api_key: SecretStr | None = Field(
        None,
        description="When set and not empty, all of `/v1` and `/v2/models` needs it, as `Authorization: "
        "Bearer` or `X-API-Key`. Open stay `/`, `/livez`, `/readyz`, `/metrics`, `/docs`, `/openapi.json`, "
        "`/v2` and `/v2/health`.",
    )
    drain_seconds: float = Field(
        0,
        ge=0,
        le=300,
        description="Seconds to serve on, not ready, after SIGTERM or SIGHUP; what runs has up to 25 more.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Least severity that is logged: `debug`, `info`, `warning` or `error`."
    )

    @field_validator("api_key")
    @classmethod
    def _not_empty(cls, key: SecretStr | None) -> SecretStr | None:
        # A file of settings may have the name alone.
        return key if key is not None and key.get_secret_value() else None

    @field_validator("tiers")
    @classmethod
    def _at_least_one(cls, tiers: dict[str, float]) -> dict[str, float]:
        if not tiers:
            raise ValueError("at least one tier is needed")
        return tiers


def check_environment(environment: Mapping[str, str]) -> None:
    """Raises SettingsError for a variable with our prefix that is none of ours: most likely a typo."""
    known = {f"{PREFIX}{name.upper()}" for name in Settings.model_fields} | _OF_OTHERS
    for name in environment:
        if name.upper().startswith(PREFIX) and name.upper() not in known:
            raise SettingsError(f"unknown variable {name}; known: {', '.join(sorted(known))}")


def _default_state_dir(environment: Mapping[str, str]) -> Path:
    """Raises SettingsError where it would be in a home directory, and there is none."""
    base = environment.get("XDG_STATE_HOME")
    try:
        return (Path(base) if base else Path.home() / ".local" / "state") / "mobilenet-service"
    except RuntimeError:  # as for a user that the system does not know
        raise SettingsError("there is no home directory to keep state in; set MOBILENET_STATE_DIR") from None
