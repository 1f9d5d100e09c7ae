"""Virtex: the message-first face of headrace.

Here will live ``HttpMessage``, ``RequestHandler``, ``http_server``, ``HttpClient`` and
``HttpLoadTest``: JSON messages of many items, batched across messages, on headrace's engine.
"""
