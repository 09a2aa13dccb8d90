"""Errors of a tower: which an item may be to blame for, and how they go from a copy's process to another one.

Nothing heavy is imported, for a copy's process imports it.
"""

from typing import Final, Literal, NamedTuple

from beam_curate.devices import DeviceFailedError, device_failed, out_of_memory

SAMPLE_ERRORS: Final = (RuntimeError, ValueError, IndexError, ArithmeticError)
"""What a model may raise on one item alone. Anything else is a bug and fails the bundle."""

TOLD: Final = (*SAMPLE_ERRORS, AssertionError, AttributeError, LookupError, MemoryError, OSError, TypeError)
"""What a copy's process tells of. After anything else it closes the connection."""


class TowerError(RuntimeError):
    """What a tower in another process has raised on some items, in words that name the error."""


class Raised(NamedTuple):
    """An error of a tower, as it goes to another process, which may not know its class or be unable to build it."""

    kind: Literal["device memory", "device", "items", "system", "memory", "bug"]
    message: str

    @classmethod
    def of(cls, error: BaseException) -> "Raised":
        """Says of which kind an error is, which is one of TOLD."""
        named = f"{type(error).__name__}: {error}"
        if isinstance(error, SAMPLE_ERRORS):
            if out_of_memory(error) or type(error).__name__ == "OutOfMemoryError":
                return cls("device memory", str(error))
            return cls("device" if device_failed(error) else "items", named)
        if isinstance(error, OSError):
            return cls("system", str(error))
        return cls("memory", str(error)) if isinstance(error, MemoryError) else cls("bug", named)

    def error(self) -> Exception:
        """The error to raise here."""
        if self.kind == "device memory":
            import torch

            return torch.cuda.OutOfMemoryError(self.message)
        kinds = {"device": DeviceFailedError, "items": TowerError, "system": OSError, "memory": MemoryError}
        return kinds.get(self.kind, TypeError)(self.message)
