"""What the client's modules need of httpx2, imported in one place."""

from __future__ import annotations

try:
    # httpcore2 is what httpx2 stands on: the pool without redirects, cookies and proxies.
    import httpcore2 as httpcore2
    import httpx2 as httpx2
except ImportError as error:  # pragma: no cover
    raise ImportError(
        'virtex.http.client needs httpx2: pip install "headrace[virtex]"', name=error.name
    ) from error
