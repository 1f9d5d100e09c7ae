"""The documentation pages, drawn by Swagger UI and Redoc from files of this machine."""

from __future__ import annotations

import functools

from ..errors import HeadraceError

CONTENT_POLICY = "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:"
"""Keeps the pages from asking other hosts for anything, whatever their scripts would like."""

_LOCAL = (
    ("<redoc ", "<redoc disable-telemetry='true' "),
    ('layout: "StandaloneLayout"', 'layout: "StandaloneLayout", validatorUrl: null'),
    ("https://cdn.redoc.ly/redoc/logo-mini-full.svg", "data:,"),
    ("https://cdn.redoc.ly/redoc/logo-mini.svg", "data:,"),
)
"""What in the templates is replaced so that they do not even try."""


class DocsMissing(HeadraceError):
    """The package that holds the pages' assets is not installed."""

    code = "docs_missing"


@functools.cache
def docs_page(kind: str, spec_url: str = "/openapi.json") -> bytes:
    """A page that draws an OpenAPI document; send it with `CONTENT_POLICY`.

    Args:
        kind: "swagger" or "redoc".
        spec_url: Where the document is.

    Raises:
        DocsMissing: offapi is not installed.
    """
    try:
        from offapi import OpenAPITemplate
    except ImportError:
        raise DocsMissing('the pages need offapi: pip install "headrace[docs]"') from None
    template = OpenAPITemplate[kind.upper()].value
    page = template.format(spec_url=spec_url)
    for found, local in _LOCAL:
        page = page.replace(found, local)
    return page.encode()
