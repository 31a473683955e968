"""The quality that meets a target, found on short pieces of the video: `encode --target`.

Pieces of one window each, spread evenly, go through the encoder once; their latents are then quantised at one quality
after another, which costs next to nothing for a size or a bitrate, and one decode of the pieces for PSNR or LPIPS.

    size, bitrate   the highest quality whose predicted bytes stay within the target
    psnr, lpips     the lowest quality that reaches the target, in the mean over the pieces

`pieces` predicts the whole from them, `search` chooses. Knows no command lines.
"""

from cvcodec.target.search import Found, Target, encode_to_target, find_quality

__all__ = ["Found", "Target", "encode_to_target", "find_quality"]
