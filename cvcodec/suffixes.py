"""What the name of a file says of it, where a folder is searched; one that is named itself may be called anything."""

_VIDEO = ".mp4 .m4v .mov .mkv .webm .avi .mpg .mpeg .ts .m2ts .mts .flv .ogv .wmv .3gp .y4m .gif .apng .mxf .vob"
_IMAGE = ".jpg .jpeg .png .webp .bmp .tif .tiff .ppm .avif .heic .jxl"

VIDEO_SUFFIXES = frozenset(_VIDEO.split())
IMAGE_SUFFIXES = frozenset(_IMAGE.split())
