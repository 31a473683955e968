"""Who encodes the clips of a run. Both engines call `dataset.work.encode_clip` for each and give its outcome."""
