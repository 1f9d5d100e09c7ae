"""The version, as it was installed."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("headrace")
except PackageNotFoundError:  # pragma: no cover  (run from a source tree that is not installed)
    __version__ = "0+unknown"
