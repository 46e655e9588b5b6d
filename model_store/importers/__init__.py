"""One file a format in which MobileNet v1 weights are published; each returns `NetworkWeights`."""
