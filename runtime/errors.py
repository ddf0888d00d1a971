"""Every error that fpc-deploy raises on purpose.

    FpcError
    ├── CheckpointError           a checkpoint that cannot be read, or does not fit the model
    ├── ParityError               an exported graph that does not answer as the torch model does
    ├── BundleError               a bundle that is damaged, unsafe, too new, or lacks a stage
    ├── EngineError               an inference engine that cannot load or run a graph
    ├── GalleryError              a gallery that is damaged, empty, locked, or asked for what it lacks
    │   └── GalleryMismatchError  a gallery made by another bundle
    ├── SourceError               a video, stream, folder or box file that cannot be read
    │   └── ImageError            one image that cannot be read
    ├── DetectorError             a person detector whose inputs or outputs fit no known layout
    └── MissingExtraError         an optional package that this command needs and that is not installed

A message says what went wrong, where (file, key, entry), and what to do. Only the command line catches `FpcError`.
"""


class FpcError(Exception):
    """Base of all errors of fpc-deploy; its message is fit to be shown to a user on one line."""


class CheckpointError(FpcError):
    """A checkpoint cannot be read, or its parameters do not fit the model."""


class ParityError(FpcError):
    """An exported graph answers differently from the torch model beyond the stated tolerance."""


class BundleError(FpcError):
    """A bundle is damaged, unsafe, too new, or lacks the stage that was asked for."""


class EngineError(FpcError):
    """An inference engine cannot load or run a graph."""


class GalleryError(FpcError):
    """A gallery is damaged, empty, locked, or asked for something it lacks."""


class GalleryMismatchError(GalleryError):
    """A gallery was made by a bundle other than the one it is opened with."""


class SourceError(FpcError):
    """A video, stream, folder or box file cannot be read."""


class ImageError(SourceError):
    """One image cannot be read."""


class DetectorError(FpcError):
    """A person detector's inputs or outputs fit no known layout."""


def first_line(error: Exception) -> str:
    """Return the first line of somebody else's error, or its class where it says nothing: fit for one of ours."""
    return str(error).splitlines()[0] if str(error) else type(error).__name__


class MissingExtraError(FpcError):
    """An optional package is not installed; the message holds the line that installs it."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"{package} is not installed: run  pip install 'fpc-deploy[{extra}]'")
        self.package = package
        self.extra = extra
