"""Rate and distortion of cvcodec's models beside conventional encoders, on the same clips: `cvcodec bench`.

settings      what is tried: qualities of our models, CRFs and presets of encoders
clips         what it is tried on: files as they are, or after the protocol of the CV-VAE paper
measure       one clip in one setting: encode, decode, time, measure -> a `Row`
cache         rows and pictures on disk, so that a run can be stopped and go on
run           all clips in all settings
bjontegaard   the distance between two curves: BD-rate
summary       rows -> means over clips, BD-rates, matched rates, tables in Markdown
curves        rows -> curves, drawn
report        everything on one page
machine       what a reader needs to judge figures from a machine
blocks        marked blocks of a text that a measurement fills in

Nothing here is imported by the codec.
"""
