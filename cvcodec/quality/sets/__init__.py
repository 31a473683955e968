"""How near a set of clips or pictures is to another: what diffusion models are judged by (`cvcodec eval --set`).

distances    two clouds of features -> Frechet and kernel distance
networks     clips and pictures -> features, by networks that the user names
folders      a folder -> clips
compare      two folders -> `SetReport`
"""
