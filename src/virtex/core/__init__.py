"""What the other parts of virtex stand on: its logger, its metrics, and the worker for gunicorn."""
