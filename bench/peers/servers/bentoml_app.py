"""BentoML. `workers="cpu_count"`, as its "Parallelize requests handling" page advises for the CPU; the
picture comes as a Pillow image where Pillow decodes it, as a file where our functions do."""

import os
from pathlib import Path
from typing import Annotated

import bentoml
from bentoml.validators import ContentType
from PIL.Image import Image

from bench.peers.servers import pipelines


@bentoml.service(workers="cpu_count", resources={"cpu": "2"})
class Classifier:
    def __init__(self) -> None:
        if os.environ["PEER_PIPELINE"] == "pillow":
            self.network = pipelines.Network(Path(os.environ["PEER_MODEL"]))
        else:
            self.classify = pipelines.load()

    @bentoml.api
    def pillow(self, image: Image) -> list[pipelines.Prediction]:
        return self.network.classify(image)

    @bentoml.api
    def ours(self, image: Annotated[Path, ContentType("image/*")]) -> list[pipelines.Prediction]:
        return self.classify(image.read_bytes())
