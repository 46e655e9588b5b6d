"""An environment for each peer, made on first use: their dependencies do not go together."""

import hashlib
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_FOLDER = ROOT / ".peers"
_REQUIREMENTS = Path(__file__).with_name("requirements")


def python_of(peer: str) -> Path:
    """The interpreter of the peer's environment, which is made anew when its requirements have changed."""
    requirements = _REQUIREMENTS / f"{peer}.txt"
    wanted = hashlib.sha256(
        b"".join((_REQUIREMENTS / name).read_bytes() for name in ("common.txt", requirements.name))
    ).hexdigest()
    folder = _FOLDER / peer
    python, done = folder / "bin" / "python", folder / "requirements.sha256"
    if not done.is_file() or done.read_text() != wanted:
        print(f"making the environment of {peer} in {folder.relative_to(ROOT)}", file=sys.stderr, flush=True)
        venv.create(folder, clear=True, with_pip=True)
        install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*install, "-r", str(requirements)], check=True)
        done.write_text(wanted)
    return python
