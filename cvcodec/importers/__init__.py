"""Weights of other projects -> a model of ours: official CV-VAE, and SD / SD3 image autoencoders inflated to video.

`importing.import_model` puts reading (sources), names (naming) and missing configs (inference) together.
"""
