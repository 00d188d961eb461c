"""The base of every error that trtc raises on purpose."""

from __future__ import annotations

UNSTOPPABLE = "a build that nothing stops"   # the name of its thread, which an interrupted command ends with it


class TrtcError(Exception):
    """Something the user can mend: the command line prints it without a traceback and exits with 2.

    Args:
        message: what is, but what must be; lower case, no full stop, naming the thing.
        notes: facts that help, one line each; the fix, where we know it, is a line ``help: ...``.
    """

    def __init__(self, message: str, *notes: str) -> None:
        super().__init__(message)
        self.message, self.facts = message, notes

    def __str__(self) -> str:
        return "\n".join([f"error: {self.message}", *(f"  = {note}" for note in self.facts)])


class MissingPackage(TrtcError):
    """An optional package is needed and not installed.

    Args:
        package: the module that failed to import.
        extra: the extra of trtc that brings it.
        purpose: what it is needed for, as the end of "is needed to ...".
    """

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        message = f"{package} is needed to {purpose}, but is not installed"
        super().__init__(message, f"help: pip install 'trtc[{extra}]'")
