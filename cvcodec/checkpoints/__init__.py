"""Weights: our files of them (`checkpoint`), their names (`registry`), which are the same (`identity`), and those of
other projects (`foreign`): official CV-VAE, and SD / SD3 image autoencoders inflated to video.
"""
