"""On PYTHONPATH, this makes a process fail as on a device that cannot run some model or provider.

FAILING_DEVICE is JSON: by resolution, or by a provider that is then there, a signal or "hang". Whoever runs
such a model fails, be it the self-test's child or the server.
"""

import json
import os
import signal
import time

from model_store import runtime
from model_store.runtime import CPU, OnnxSession

_FAILS: dict[str, str] = json.loads(os.environ["FAILING_DEVICE"])
_init, _run, _accelerators = OnnxSession.__init__, OnnxSession.run, runtime.accelerators


def _fail(key: str) -> None:
    how = _FAILS.get(key)
    if how == "hang":
        time.sleep(600)
    elif how:
        os.kill(os.getpid(), signal.Signals[how])


def _failing_init(self, *model_and_threads, provider=CPU, **others):  # type: ignore[no-untyped-def]
    _fail(provider)
    _init(self, *model_and_threads, provider=provider, **others)


def _failing_run(self, images):  # type: ignore[no-untyped-def]
    _fail(str(images.shape[1]))
    return _run(self, images)


OnnxSession.__init__ = _failing_init  # type: ignore[method-assign]
OnnxSession.run = _failing_run  # type: ignore[method-assign]
runtime.accelerators = lambda callers=1: (
    _accelerators(callers) | {key: "1.0" for key in _FAILS if key.endswith("Provider")}
)
