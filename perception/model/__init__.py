"""The network: encoders, view transform, registration, fusion, heads and the detector made of them."""
