"""The tree of errors that a person is meant to read.

Every message is one sentence that names the thing and the way out; the screen and the command
line print it as it is. Anything else that is raised is a fault of ours.
"""


def sentence_case(text: str) -> str:
    """The text beginning as a sentence does; the rest of it stays."""
    return text[:1].upper() + text[1:]


class WorkbenchError(Exception):
    """Base of all errors that are shown to a person."""


class InputError(WorkbenchError):
    """Something a person gave can't be used (the command line exits with 2)."""


class SettingsError(InputError):
    """A setting is unknown or out of its range."""


class DataError(InputError):
    """A file of rows can't be read, written or learned from."""


class RowError(DataError):
    """One row can't be used; `field` says which part of it, as in `messages[1].content`."""

    def __init__(self, reason: str, field: str = "messages") -> None:
        super().__init__(reason)
        self.reason = reason
        self.field = field


class ConflictError(DataError):
    """The file was changed by somebody else since it was read."""


class ModelError(InputError):
    """A model folder is missing, broken, or of a kind that can't be used."""


class RunError(InputError):
    """A run's name is taken, unsafe or unknown, or its folder is broken."""


class AdapterError(WorkbenchError):
    """An adapter does not fit its base, or does not change its logits."""


class BusyError(WorkbenchError):
    """The engine is held by another job."""


class EngineError(WorkbenchError):
    """The engine process died or could not do its job."""
