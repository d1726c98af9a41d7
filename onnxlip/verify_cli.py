"""`onnxlip verify CERTIFICATE MODEL`."""

from __future__ import annotations

import sys

import click

__all__ = ["verify"]


@click.command("onnxlip verify")
@click.argument("certificate", type=click.Path())
@click.argument("model", type=click.Path())
@click.option("--rules", "rule_modules", multiple=True, metavar="MODULE", help="As made with.")
def verify(certificate: str, model: str, rule_modules: tuple[str, ...]) -> int:
    """Prove the bound in CERTIFICATE (of --certificate) anew, for MODEL.

    Exit codes: 0 proved, 1 not proved, 2 unreadable, or of another model.
    """
    from pathlib import Path

    from onnxlip.proofs import Certificate
    from onnxlip.registry import rule_set
    from onnxlip.report.text import shown_up
    from onnxlip.verify import verify as prove

    if rule_modules and "" not in sys.path:
        sys.path.insert(0, "")
    told = Certificate.load(certificate)
    proved = prove(told, model, rule_set(modules=rule_modules))
    click.echo(f"verified: L ≤ {shown_up(proved.bound)} (2-norm, global), {Path(model).name}")
    return 0
