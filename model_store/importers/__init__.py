"""The formats in which networks are published, a file each, and what several of them share.

Each has a `load`, which returns what the format holds: the weights of a network or of a detector, the
integers of a quantised one, or a finished ONNX model.
"""
