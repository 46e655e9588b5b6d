"""Training of the networks that this project makes itself; needs the extra `train`.

Only the files here import torch. What they leave behind (`model_store.trained`) needs none of it.
"""
