"""Ventu: the schema-first face of headrace.

Here will live ``Ventu``: pydantic request and response schemas around one model, served over HTTP
or as a worker behind a batching service, on headrace's engine.
"""
