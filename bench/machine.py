"""What a measurement was made on."""

import platform

from model_store.device import cpu_model, usable_cpus


def machine() -> str:
    """The CPU, how many of them, and the interpreter."""
    return f"{cpu_model()}, {usable_cpus()} CPUs, Python {platform.python_version()}"
