"""Messages over HTTP: the message, its client and its server, and a load test."""
