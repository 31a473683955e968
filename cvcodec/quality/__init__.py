"""How good a video is: metrics (tensors in, one number per picture out), two videos in step (`compare`), what a report
of them shows, and the search for the quality that meets a target (`target`).
"""
