"""Rate and distortion of cvcodec's models beside conventional encoders, on the same clips: `cvcodec bench`.

settings      what is tried: qualities of our models, CRFs and presets of encoders
clips         what it is tried on: files as they are, or after the protocol of the CV-VAE paper
measure       clips in settings: encode, decode, time, measure -> `Row`s, kept on disk so that a run can go on
bjontegaard   the distance between two curves: BD-rate
summary       rows -> means over clips, BD-rates, matched rates, tables in Markdown
report        rows -> curves, drawn; everything on one page; marked blocks of a text
machine       what a reader needs to judge figures from a machine
"""
