"""Adapters to other libraries. Each imports its library, if at all, only when used.

diffusers    a model of ours where a pipeline wants an AutoencoderKL
"""
