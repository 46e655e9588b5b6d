"""LitServe. `workers_per_device` and `fast_queue` as the documentation of `LitServer` has them: for a CPU the
number of its cores, and ZeroMQ above 100 requests a second. The API servers are as many by default."""

import os

import litserve as ls
from fastapi import Request

from bench.peers.servers import pipelines


class Classifier(ls.LitAPI):
    def setup(self, device: str) -> None:
        self.classify = pipelines.load()

    def decode_request(self, request: Request) -> bytes:  # of a form it is the parts
        data: bytes = request["image"].file.read()
        return data

    def predict(self, x: bytes) -> list[pipelines.Prediction]:
        return self.classify(x)

    def encode_response(self, output: list[pipelines.Prediction]) -> dict[str, list[pipelines.Prediction]]:
        return {"predictions": output}


if __name__ == "__main__":
    server = ls.LitServer(Classifier(), accelerator="cpu", workers_per_device=2, fast_queue=True)
    server.run(port=int(os.environ["PEER_PORT"]), generate_client_file=False, log_level="warning")
