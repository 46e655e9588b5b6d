"""FastAPI as people write it by hand: a `def` endpoint, `UploadFile`, Pillow.

Run by `uvicorn --workers 2`, a process for each core ("Server Workers" of FastAPI's documentation).
"""

from fastapi import FastAPI, UploadFile

from bench.peers.servers import pipelines

app = FastAPI()
classify = pipelines.load()


@app.post("/classify")
def predict(image: UploadFile) -> dict[str, list[pipelines.Prediction]]:
    return {"predictions": classify(image.file.read())}
