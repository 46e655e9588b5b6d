"""The peers: how each is started, asked and understood, and where its settings come from."""

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.peers.environments import ROOT
from bench.server import free_port
from bench.wrk import Body

PILLOW, OURS = "pillow", "ours"
PIPELINES = (PILLOW, OURS)
_BOUNDARY = "----picture"
_MODULE = "bench.peers.servers"


@dataclass(frozen=True)
class Peer:
    """`command` has the arguments after the environment's folder of programs, from a port; `variables` what
    its environment gets beside. `path` may name the pipeline. `body` is a picture as the peer takes it,
    `top1` the most probable class in an answer."""

    name: str
    title: str
    settings: str
    command: Callable[[int], list[str]]
    path: str
    body: Callable[[bytes], Body]
    top1: Callable[[Any], int]
    variables: Callable[[int], dict[str, str]] = lambda port: {}

    def url(self, port: int, pipeline: str) -> str:
        return f"http://127.0.0.1:{port}{self.path.format(pipeline=pipeline)}"


def multipart(picture: bytes) -> Body:
    """As a browser's form or `curl -F image=@...` sends it."""
    head = (
        f"--{_BOUNDARY}\r\n"
        'Content-Disposition: form-data; name="image"; filename="picture.jpg"\r\n'
        "Content-Type: image/jpeg\r\n\r\n"
    )
    data = head.encode() + picture + f"\r\n--{_BOUNDARY}--\r\n".encode()
    return Body(data, f"multipart/form-data; boundary={_BOUNDARY}")


def open_inference(picture: bytes) -> Body:
    """The picture as base64 in a request of the Open Inference Protocol."""
    image = {
        "name": "image",
        "shape": [1, 1],
        "datatype": "BYTES",
        "parameters": {"content_type": "base64"},
        "data": [base64.b64encode(picture).decode()],
    }
    return Body(json.dumps({"inputs": [image]}).encode(), "application/json")


def _of_predictions(answer: Any) -> int:
    return int(answer["predictions"][0]["index"])


PEERS = (
    Peer(
        "fastapi",
        "FastAPI by hand",
        "`def` endpoint, `UploadFile`; `uvicorn --workers 2`, one for each core (FastAPI, *Server Workers*)",
        lambda port: [
            "uvicorn", f"{_MODULE}.fastapi_app:app", "--workers", "2", "--port", str(port),
            "--log-level", "warning",
        ],
        "/classify",
        multipart,
        _of_predictions,
    ),
    Peer(
        "litserve",
        "LitServe",
        "`accelerator='cpu'`, `workers_per_device=2` (cores), `fast_queue=True` (above 100 requests/s), API "
        "servers by default as many (reference of `LitServer`)",
        lambda port: ["python", "-m", f"{_MODULE}.litserve_app"],
        "/predict",
        multipart,
        _of_predictions,
    ),
    Peer(
        "bentoml",
        "BentoML",
        "`workers='cpu_count'` (*Parallelize requests handling*)",
        lambda port: ["bentoml", "serve", f"{_MODULE}.bentoml_app:Classifier", "--port", str(port)],
        "/{pipeline}",
        multipart,
        lambda answer: int(answer[0]["index"]),
        lambda port: {"BENTOML_DO_NOT_TRACK": "True", "BENTOML_HOME": str(ROOT / ".peers" / "bentoml-home")},
    ),
    Peer(
        "mlserver",
        "MLServer",
        "`parallel_workers=2` (*Parallel Inference*), the picture as base64 (*Content Types*)",
        lambda port: ["mlserver", "start", str(Path(__file__).with_name("servers"))],
        "/v2/models/mobilenet/infer",
        open_inference,
        lambda answer: int(answer["outputs"][0]["data"][0]),
        lambda port: {
            "MLSERVER_HTTP_PORT": str(port),
            "MLSERVER_GRPC_PORT": str(free_port()),  # a neighbour of `port` may be taken
            "MLSERVER_METRICS_PORT": str(free_port()),
            "MLSERVER_PARALLEL_WORKERS": "2",
            "MLSERVER_MODEL_NAME": "mobilenet",
            "MLSERVER_MODEL_IMPLEMENTATION": f"{_MODULE}.mlserver_app.Classifier",
        },
    ),
    Peer(
        "ray",
        "Ray Serve",
        "`num_replicas=2`, `num_cpus=1` each (*Resource Allocation*)",
        lambda port: ["python", "-m", f"{_MODULE}.ray_app"],
        "/",
        Body,
        _of_predictions,
        lambda port: {"RAY_USAGE_STATS_ENABLED": "0"},
    ),
)  # fmt: skip
