"""Ray Serve: a replica for each core, with a CPU of its own ("Resource Allocation" of its documentation)."""

import os

import ray
from ray import serve
from starlette.requests import Request

from bench.peers.servers import pipelines


@serve.deployment(num_replicas=2, ray_actor_options={"num_cpus": 1})
class Classifier:
    def __init__(self) -> None:
        self.classify = pipelines.load()

    async def __call__(self, request: Request) -> dict[str, list[pipelines.Prediction]]:
        return {"predictions": self.classify(await request.body())}


if __name__ == "__main__":
    ray.init(num_cpus=2, include_dashboard=False)
    serve.start(http_options={"host": "127.0.0.1", "port": int(os.environ["PEER_PORT"])})
    serve.run(Classifier.bind(), blocking=True)  # type: ignore[attr-defined]
