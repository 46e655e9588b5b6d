"""`model-store` as a user runs it: in this process, or as a process of its own."""

import json
import os
import shutil
import subprocess
import sys
from typing import IO, Any

import pytest

from model_store import cli


class Console:
    """Runs commands, and gives what they print."""

    def __init__(self, capture: pytest.CaptureFixture[str]) -> None:
        self._capture = capture

    def __call__(self, *arguments: object, code: int = 0) -> tuple[list[str], list[str]]:
        """Lines on stdout and on stderr of a command that ends with `code`."""
        assert cli.main([str(a) for a in arguments]) == code
        out, err = self._capture.readouterr()
        return out.splitlines(), err.splitlines()

    def json(self, *arguments: object, code: int = 0) -> Any:
        """What stdout holds; nothing but JSON."""
        out, _ = self(*arguments, "--json", code=code)
        return json.loads("\n".join(out))

    def failure(self, *arguments: object, code: int = 1) -> str:
        """The one line on stderr."""
        out, err = self(*arguments, code=code)
        assert out == []
        (line,) = err
        assert line.startswith("model-store: ")
        return line

    def misuse(self, *arguments: object) -> str:
        """The one line on stderr of a command whose options contradict each other."""
        return self.failure(*arguments, code=2)

    def usage_error(self, *arguments: str) -> str:
        """What argparse says on stderr."""
        with pytest.raises(SystemExit) as end:
            cli.main(arguments)
        assert end.value.code == 2
        out, err = self._capture.readouterr()
        assert out == ""
        return err


def command_line(*arguments: object) -> list[str]:
    """Of the installed console script."""
    return [sys.executable, "-m", "model_store.cli", *(str(a) for a in arguments)]


def without_privileges() -> list[str]:
    """What goes before a command so that permissions hold for root too; skips the test where that is not to
    be had."""
    if os.geteuid() != 0:
        return []
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        pytest.skip("root may read everything here")
    return [setpriv, "--bounding-set", "-dac_override,-dac_read_search", "--inh-caps", "-all"]


def program(
    *arguments: object, stdout: IO[str] | int = subprocess.PIPE, **environment: str
) -> "subprocess.CompletedProcess[str]":
    """The command's process, ended; what it prints is buffered as usual."""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    return subprocess.run(
        command_line(*arguments), env=env | environment, stdout=stdout, stderr=subprocess.PIPE, text=True,
        timeout=60, check=False,
    )  # fmt: skip
