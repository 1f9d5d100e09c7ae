"""`headrace check`: does a model keep what it promises?"""

from __future__ import annotations

from typing import Annotated

import typer


def check(
    targets: Annotated[
        list[str], typer.Argument(metavar="TARGET...", help="module:Name or path.py:Name")
    ],
) -> None:
    """Run each model's examples alone and in a full batch, and compare the answers."""
    from ..errors import HeadraceError
    from ..targets import load_target, models_of
    from ..testing import check as check_model

    failed = False
    makers = [
        (target, make)
        for target in targets
        for make in models_of(load_target(target), where=target)
    ]
    for target, make in makers:
        try:
            found = check_model(make())
        except HeadraceError as error:
            failed = True
            typer.echo(f"{target}: failed: {error.message}", err=True)
            if error.__cause__ is not None:
                typer.echo(str(error.__cause__), err=True)
            continue
        card = found.card
        typer.echo(f"{card.name}: ok")
        typer.echo(
            f"  {len(card.examples)} example(s), alone and in batches of {found.max_batch_size}"
        )
        typer.echo(f"  largest difference between alone and batched: {found.worst_difference:.3g}")
        for number, answer in enumerate(found.answers):
            typer.echo(f"  examples[{number}] -> {_short(answer)}")
    raise typer.Exit(1 if failed else 0)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 100 else text[:100] + "…"
