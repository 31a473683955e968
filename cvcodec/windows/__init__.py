"""Windows in time and tiles in space, written once, for any callable between pixels and latents.

    specs      Window, Tile and Official: what a file's header says of them
    time       frames and latents: which stand for which, and a stream of which only what is needed is alive
    space      padding, cropping, and tiles whose borders cannot be seen
    official   the tiles of the official CV-VAE inference
    plan       ContextPlan and OfficialPlan: how a video is cut for a model; `choose_plan`
    memory     smaller sizes where an estimate says that memory does not do, or it runs out

Owns: what is computed together, what of it is discarded, blended and kept, and in which order.
Does not know: models beyond a config's numbers, files, command lines. Raises ValueError, and MemoryError when even the
smallest tiles do not fit.

Each name is imported from its file; `specs` needs no torch.
"""
