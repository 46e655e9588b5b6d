"""What a PromQL expression asks for: enough of the language for the expressions of `deploy/monitoring`."""

import re
from dataclasses import dataclass

_NAME = r"[a-zA-Z_:][\w:]*"
_GROUPING = re.compile(r"\b(?:by|on|without|ignoring)\s*\(([^)]*)\)")
_RANGE = re.compile(r"\[[^\]]*\]")
_SELECTOR = re.compile(rf"({_NAME})\s*(\{{[^}}]*\}}|\()?")
_MATCHER = re.compile(r'(\w+)\s*(?:=|!=)\s*"([^"]*)"')
_OPERATORS = {"and", "or", "unless", "bool"}


@dataclass(frozen=True)
class Selector:
    """A metric, and the labels that have to have a value, or must not."""

    name: str
    matchers: tuple[tuple[str, str], ...]


def selectors(expression: str) -> list[Selector]:
    """All of an expression. Raises ValueError for what is not understood, such as a regular expression."""
    if "=~" in expression or "!~" in expression:
        raise ValueError(f"regular expressions are not understood: {expression}")
    plain = _RANGE.sub("", _GROUPING.sub(" ", expression))
    found = [
        Selector(match[1], tuple(_MATCHER.findall(match[2] or "")))
        for match in _SELECTOR.finditer(plain)
        if match[2] != "(" and match[1] not in _OPERATORS
    ]
    if not found:
        raise ValueError(f"no metric is asked for: {expression}")
    return found


def grouped_labels(expression: str) -> set[str]:
    """Labels that an expression sums or joins by."""
    return {label.strip() for group in _GROUPING.findall(expression) for label in group.split(",")}
