"""What the command line itself refuses, sorted by what the reader must do. Codes SM-01xx; SM-0110 is the SDK's."""

from __future__ import annotations

from pathlib import Path

from stepmesh_broker.errors import StepmeshError


class CommandError(StepmeshError):
    """The command cannot do what was asked: correct the call."""

    default_code = "SM-0101"


class DataFolderInUse(StepmeshError):
    """Another live process owns the data folder."""

    default_code = "SM-0102"

    @classmethod
    def of(cls, path: Path, owner: str) -> DataFolderInUse:
        """The error for `path`, which process `owner` holds."""
        hint = "stop that process, choose another folder with --data, or talk to it with `stepmesh submit`"
        return cls(f"the data folder {path} is in use by process {owner}", hint=hint)


class DataFolderUnusable(StepmeshError):
    """The data folder cannot be made, read or written."""

    default_code = "SM-0103"

    @classmethod
    def of(cls, path: Path, problem: OSError) -> DataFolderUnusable:
        """The error for `path`, with the system's reason."""
        hint = "make it a writable folder, or choose another one with --data"
        return cls(f"the data folder {path} cannot be used: {problem.strerror or problem}", hint=hint)


class PartitionsDiffer(StepmeshError):
    """The data folder was made with another number of partitions; runs are placed by it, so it stays."""

    default_code = "SM-0104"


class WorkerProcessFailed(StepmeshError):
    """A worker process ended in a way that another start would not mend."""

    default_code = "SM-0105"


class BadWorkerModule(StepmeshError):
    """MODULE[:ATTR] names no worker."""

    default_code = "SM-0106"


class NotAvailable(StepmeshError):
    """This version, or this install, cannot do what the configuration asks for."""

    default_code = "SM-0107"


class BadInput(StepmeshError):
    """A file or text that was given as input, variables or overrides cannot be used."""

    default_code = "SM-0108"


class StoreNotKept(StepmeshError):
    """The store would not be there for everyone, or as long, as the journal needs it."""

    default_code = "SM-0152"

    @classmethod
    def of(cls, journal: str, why: str) -> StoreNotKept:
        """The error for a store of which `why` says what is wrong with it."""
        hint = "--store postgres://host/database; on one machine also --store sqlite:PATH, or --data FOLDER"
        return cls(f"the journal {journal} needs a store for flows and blobs: {why}", hint=hint)


class DurabilityLess(StepmeshError):
    """The journal gives less than the deployment declares."""

    default_code = "SM-0153"


class PortUnusable(StepmeshError):
    """A server cannot listen where it was told to."""

    default_code = "SM-0112"

    @classmethod
    def of(cls, host: str, port: int) -> PortUnusable:
        """The error for an address."""
        return cls(f"cannot listen on {host}:{port}", hint="another process may: choose another port, or 0 for a free one")
