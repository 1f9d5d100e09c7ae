"""The command line: parses, calls, prints."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from ..errors import ConfigError
from . import batching, check, config, openapi, serve, worker

app = typer.Typer(
    name="headrace",
    help="Machine-learning models in production, from a few lines of Python.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("serve")(serve.serve)
app.command("batching")(batching.batching)
app.command("check")(check.check)
app.command("config")(config.config)
app.command("openapi")(openapi.openapi)
app.command("worker")(worker.worker)


def _print_version(wanted: bool) -> None:
    if wanted:
        from ..version import __version__

        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def headrace(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="And exit.")
    ] = False,
) -> None:
    """Machine-learning models in production, from a few lines of Python."""


def main() -> None:
    """The `headrace` command; configuration errors are told without a traceback, exit code 2."""
    try:
        app()
    except ConfigError as error:
        cause = error.__cause__
        if cause is not None:
            import traceback

            traceback.print_exception(cause)
        print(f"headrace: {error.message}", file=sys.stderr)
        sys.exit(2)
