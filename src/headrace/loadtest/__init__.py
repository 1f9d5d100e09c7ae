"""Load tests: requests sent at planned instants, whether the server keeps up or not."""
