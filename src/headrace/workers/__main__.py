"""`python -m headrace.workers TARGET`: what the front starts; `headrace worker` is for people."""

from .main import main

main()
