"""The table of `docs/settings.md`, made from the settings themselves: `python -m service.settings_table`."""

from typing import Any

from annotated_types import Ge, Gt, Le

from service.settings import PREFIX, Settings


def settings_table() -> str:
    """Markdown: one row a setting, with default, bounds and description."""
    lines = ["| variable | default | bounds | what it is |", "|---|---|---|---|"]
    for name, field in Settings.model_fields.items():
        bounds = _bounds(field.metadata)
        lines.append(
            f"| `{PREFIX}{name.upper()}` | {_default(name, field)} | {bounds} | {field.description} |"
        )
    return "\n".join(lines) + "\n"


def _default(name: str, field: Any) -> str:
    if name == "state_dir":
        return "`$XDG_STATE_HOME/mobilenet-service`, or `~/.local/state/mobilenet-service`"
    if field.default is None:
        return "none"
    return f"`{field.default}`".replace("'", '"')


def _bounds(metadata: list[Any]) -> str:
    signs = {Ge: ("≥", "ge"), Gt: (">", "gt"), Le: ("≤", "le")}
    found = [f"{signs[type(m)][0]} {getattr(m, signs[type(m)][1])}" for m in metadata if type(m) in signs]
    return ", ".join(found)


if __name__ == "__main__":
    print(settings_table(), end="")
