"""The worker process: imports the user's model, and runs batches that the front sends it."""

is_worker = False
"""Whether this process is one: what it imports is the user's, and must not begin to serve."""
