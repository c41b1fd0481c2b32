"""Every error a user of podx can cause, by name.

The message of each says what is wrong *and what to do about it*. The command line prints it without a traceback and
exits with :data:`EXIT_CODE`.
"""

EXIT_CODE = 2


class PodxError(Exception):
    """Base of all errors that podx raises on purpose."""


class ConfigError(PodxError, ValueError):
    """An option is out of range, or two options conflict (both are named)."""


class DataError(PodxError, ValueError):
    """Input data or a dataset folder cannot be used as it is."""


class TokenizerError(PodxError, ValueError):
    """The sentencepiece model is missing, damaged, or lacks a piece that podx needs."""


class CatalogError(PodxError, ValueError):
    """The catalog is inconsistent: empty, repeated ids, or two items written with the same tokens."""


class CheckpointError(PodxError):
    """A checkpoint folder is missing, damaged, or made by another version."""


class ExportError(PodxError):
    """The checkpoint cannot be exported; every fault found is listed."""


class ParityError(ExportError):
    """The exported graphs do not answer like the eager model; nothing was written."""


class BundleError(PodxError):
    """A bundle folder is missing, incomplete or damaged."""


class BundleVersionError(BundleError):
    """The bundle was written by a version of podx whose format this one does not read."""


class SwapError(BundleError):
    """A bundle cannot take the place of the one that answers, which goes on."""


class DeviceError(PodxError):
    """The device that was asked for is not available to ONNX Runtime or torch."""


class DependencyError(PodxError):
    """An optional part of podx is not installed; the message has the exact command."""


class RequestError(PodxError, ValueError):
    """A recommendation request cannot be answered as asked."""


class UnknownUserError(RequestError):
    """The user is not in the bundle's user table."""


class UnknownItemError(RequestError):
    """An item is not in the catalog."""


class HistoryError(RequestError):
    """The history is empty or longer than the model reads."""


class CandidatesError(RequestError):
    """The candidate list is empty, repeats an item, or is longer than the model reads."""


class UnsupportedTaskError(RequestError):
    """The model was not trained for this task."""


class OverloadedError(PodxError):
    """More requests wait for an answer than may; refused at once rather than answered late."""


class RequestTimeoutError(PodxError, TimeoutError):
    """A request was not answered within the time its caller allowed."""


class ClosedError(PodxError):
    """What is asked to work has been closed."""


class ScoringError(PodxError):
    """Lists for everybody cannot be finished: a worker was ended. What is done stays, and a run can go on from it."""


class AccessError(PodxError):
    """No key came with a request to the server, or none that it knows."""


class BodySizeError(PodxError):
    """The body of a request to the server is longer than it reads."""
