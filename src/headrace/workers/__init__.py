"""The worker process: imports the user's model, and runs batches that the front sends it."""
