"""MLServer: a custom runtime whose input is the picture as base64 ("Content Types" of its documentation), on
a pool of two inference workers ("Parallel Inference": `parallel_workers`)."""

from mlserver import MLModel
from mlserver.codecs import Base64Codec
from mlserver.types import InferenceRequest, InferenceResponse, ResponseOutput

from bench.peers.servers import pipelines


class Classifier(MLModel):
    async def load(self) -> bool:
        self.classify = pipelines.load()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        (image,) = Base64Codec.decode_input(payload.inputs[0])
        best = self.classify(image)
        indices, scores = [int(p["index"]) for p in best], [p["score"] for p in best]
        return InferenceResponse(
            model_name=self.name,
            outputs=[
                ResponseOutput(name="indices", shape=[1, 5], datatype="INT64", data=indices),
                ResponseOutput(name="scores", shape=[1, 5], datatype="FP32", data=scores),
            ],
        )
