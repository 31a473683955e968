"""From one file to a data set: many videos to .cvl files, and .cvl files to and from what training loops hold.

sources    folders, globs and manifests -> clips with their places         work       one clip, once: encode or skip
batch      a run: journal, index, failures                                 shared_encoder   one model for several
damage     what a batch notes in a file of its damaged source              stored     files of latents, read
engines    who does the work: this process (`local`), a Ray cluster (`ray`)
targets    what diffusion models want: factors, shift, order of axes       export_, import_   files of latents
"""
