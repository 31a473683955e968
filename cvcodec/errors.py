"""The error tree. Imports nothing, so that every layer can raise from it.

    CvcodecError                 exit code 1   the root: anything a person can cause or repair
    ├── UsageError               exit code 2   options that do not fit together or are out of range
    ├── InputError               exit code 3   a source that cannot be read: missing, not a video, damaged
    ├── OutputError              exit code 4   a destination that cannot be written: exists, is the source, codec limits
    ├── BitstreamError           exit code 5   a .cvl file that is not what the specification says
    │   ├── TruncatedError                     ... it ends before it should
    │   ├── ChecksumError                      ... a stored checksum does not match
    │   └── UnsupportedError                   ... a version or a required record this release does not know
    ├── CheckpointError          exit code 6   weights that are missing, malformed or of another architecture
    │   └── ModelMismatchError                 ... weights whose latent space is not the file's
    ├── DeviceError              exit code 7   a device that is absent or out of memory
    ├── NumericalError           exit code 8   NaN or infinity where there must be none
    └── MissingDependencyError   exit code 9   an optional package is not installed

A message is one line: what happened, what was found, what was wanted, and the way out.
"""


class CvcodecError(Exception):
    """Root of all errors that a user can cause or repair; `exit_code` is what the command line exits with."""

    exit_code = 1


class UsageError(CvcodecError):
    """Options that do not fit together, or a value outside its range."""

    exit_code = 2


class InputError(CvcodecError):
    """A source that cannot be read."""

    exit_code = 3


class OutputError(CvcodecError):
    """A destination that cannot be written."""

    exit_code = 4


class BitstreamError(CvcodecError):
    """A .cvl file that is not what the specification says."""

    exit_code = 5


class TruncatedError(BitstreamError):
    """A .cvl file that ends before it should."""


class ChecksumError(BitstreamError):
    """A stored checksum that does not match the bytes it covers."""


class UnsupportedError(BitstreamError):
    """A format version, or a required record, that this release does not know."""


class CheckpointError(CvcodecError):
    """Weights that are missing, malformed or of another architecture."""

    exit_code = 6


class ModelMismatchError(CheckpointError):
    """Weights whose latent space is not the one a file was made in."""


class DeviceError(CvcodecError):
    """A device that is absent, or that ran out of memory even at the smallest size."""

    exit_code = 7


class NumericalError(CvcodecError):
    """NaN or infinity where there must be none."""

    exit_code = 8


class MissingDependencyError(CvcodecError):
    """An optional package that a feature needs is not installed."""

    exit_code = 9
