"""The models of the CV-VAE authors and of Stable Diffusion, with their own state dicts (docs/cv-vae.md is the spec).

cvvae       SD2.1-compatible, z = 4            diffusers   SD3-compatible, z = 16; 2D, SD and SD3
layers      what both are made of              config      official config.json -> ModelConfig
inflate     2D weights -> 3D weights
"""
