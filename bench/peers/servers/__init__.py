"""One file a peer, run in an environment of its own. What all share is in `pipelines.py`.

Variables: `PEER_MODEL` is the ONNX file, `PEER_PIPELINE` `pillow` or `ours`, `PEER_PORT` the port.
"""
