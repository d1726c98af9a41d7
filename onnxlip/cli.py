"""The command line.

    onnxlip MODEL [options]     bound a model
    onnxlip ops                 the catalogue of rules
    onnxlip replay FILE MODEL   evaluate an attained quotient anew
    onnxlip verify FILE MODEL   prove a certificate anew

Exit codes: 0 fine, 1 the gate (--max) is exceeded, 2 wrong use or unreadable file, 3 unsupported
or not Lipschitz.
"""

from __future__ import annotations

import math
import shutil
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from onnxlip import __version__
from onnxlip.choices import METHODS, SEARCHES
from onnxlip.errors import OnnxlipError, UsageError
from onnxlip.verify_cli import verify

if TYPE_CHECKING:
    from onnxlip.analysis import Analysis
    from onnxlip.report import Report

__all__ = ["bound", "main", "ops", "replay", "verify"]

GATE_EXCEEDED = 1
LOWER = (
    *("none", "quick", "portfolio"),
    *("data", "random", "grid", "annealing", "ascent", "evolution"),
)


def _parse_shape(text: str) -> tuple[str, tuple[int, ...]]:
    name, separator, dims = text.rpartition("=")
    try:
        shape = tuple(int(d) for d in dims.split(","))
    except ValueError:
        raise UsageError(
            f"--shape {text}: write it as NAME=1,3,224,224 (or 1,3,224,224 for an only input)"
        ) from None
    return (name if separator else ""), shape


def _parse_size(text: str | None) -> int | None:
    """Bytes, from a number with or without k, M, G (powers of 1024)."""
    if text is None:
        return None
    number, unit = text.strip(), 1
    for letter, power in (("k", 10), ("m", 20), ("g", 30)):
        plain = number.lower().removesuffix("ib").removesuffix("b")
        if plain.endswith(letter):
            number, unit = plain[:-1], 1 << power
    try:
        size = float(number) * unit
    except ValueError:
        size = math.nan
    if not 0 < size < 2**63:
        raise UsageError(f"--memory {text}: write it as 512M or 2G")
    return int(size)


@click.command(
    "onnxlip",
    epilog="Other commands: 'onnxlip ops' prints the catalogue of rules, 'onnxlip replay' "
    "evaluates an attained quotient anew, 'onnxlip verify' proves a certificate anew. "
    "Exit codes: 0 fine, 1 gate exceeded, 2 wrong use or unreadable file, 3 unsupported or not "
    "Lipschitz.",
)
@click.argument("model", type=click.Path())
@click.option(
    "--norm",
    type=click.Choice(["1", "2", "inf"]),
    default="2",
    show_default=True,
    help="The p-norm, of inputs and outputs alike.",
)
@click.option(
    "--shape",
    "shapes",
    multiple=True,
    metavar="NAME=1,3,224,224",
    help="Shape of an input with open dimensions (batch becomes 1 by itself).",
)
@click.option(
    "--input",
    "inputs",
    multiple=True,
    metavar="TENSOR",
    help="Bound from this tensor (also an interior one). Repeatable.",
)
@click.option(
    "--output",
    "outputs",
    multiple=True,
    metavar="TENSOR",
    help="Bound to this tensor (also an interior one). Repeatable.",
)
@click.option(
    "--max",
    "limit",
    type=click.FloatRange(min=0),
    metavar="BOUND",
    help="Gate: exit with 1 if the upper bound is above (the certified one, unless --confidence "
    "allows for another).",
)
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@click.option(
    "--provider",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="Where onnxruntime runs.",
)
@click.option(
    "--rules",
    "rule_modules",
    multiple=True,
    metavar="MODULE",
    help="A Python module with RULES of yours; they win over ours. Repeatable.",
)
@click.option(
    "--tolerance",
    type=click.FloatRange(min=0, min_open=True),
    default=0.01,
    show_default=True,
    help="Slack of the product of all norms' brackets that is good enough.",
)
@click.option(
    "--memory",
    metavar="SIZE",
    help="For norms, besides the weights, e.g. 512M (default: 1.5 times the weights, at least "
    "128M). Where it is too small, cheaper bounds are proved.",
)
@click.option(
    "--method",
    type=click.Choice(METHODS),
    default="auto",
    show_default=True,
    help="How upper bounds are sought; auto: all that the budget allows, the best one kept.",
)
@click.option(
    "--timeout",
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    help="Begin nothing but AutoLip after so long, and take what LipSDP has reached by then "
    "(default: about ten seconds of work beyond AutoLip, counted in operations).",
)
@click.option(
    "--confidence",
    type=click.FloatRange(min=1e-12, max=1, max_open=True),
    metavar="DELTA",
    help="Also a bound that fails with probability at most DELTA, for the 2-norm.",
)
@click.option(
    "--search",
    "search",
    type=click.Choice(["lanczos", "power"]),
    default="lanczos",
    show_default=True,
    help="How lower ends of norms are found; power: the paper's Algorithm 2.",
)
@click.option(
    "--lower",
    "below",
    type=click.Choice(LOWER),
    default="quick",
    show_default=True,
    help="How a lower bound, attained at two points, is sought; portfolio: longer, by all methods.",
)
@click.option(
    "--data",
    metavar="FILE",
    help="Rows (.npy, .npz) at which to look for the lower bound first, any number; for --pairs "
    "with labels 'y'.",
)
@click.option(
    "--seqlip",
    "sequential",
    type=click.Choice(SEARCHES),
    default="auto",
    show_default=True,
    help="SeqLip of sequential stretches, estimated by this search and certified, for the 2-norm; "
    "auto: where layers are small.",
)
@click.option(
    "--vectors",
    type=click.IntRange(min=1),
    metavar="K",
    help="Singular vectors of each layer for SeqLip (default: all of small layers, else 50).",
)
@click.option(
    "--pairs",
    is_flag=True,
    help="Also bound every difference of two outputs; with --data, certify a radius of each row.",
)
@click.option("--attained", metavar="FILE", help="Save the two points; see 'onnxlip replay'.")
@click.option(
    "--certificate", metavar="FILE", help="Save a proof of the bound; see 'onnxlip verify'."
)
@click.option(
    "--seed",
    type=int,
    default=0,
    show_default=True,
    help="Of random starts; the same seed gives the same figures.",
)
@click.option("--quiet", "-q", is_flag=True, help="Print the upper bound only.")
@click.option("--verbose", "-v", is_flag=True, help="List every block and how it was bounded.")
@click.version_option(__version__, prog_name="onnxlip")
def bound(
    model: str,
    norm: str,
    shapes: tuple[str, ...],
    inputs: tuple[str, ...],
    outputs: tuple[str, ...],
    limit: float | None,
    as_json: bool,
    provider: str,
    rule_modules: tuple[str, ...],
    tolerance: float,
    memory: str | None,
    timeout: float | None,
    confidence: float | None,
    search: str,
    below: str,
    data: str | None,
    sequential: str,
    vectors: int | None,
    method: str,
    pairs: bool,
    attained: str | None,
    certificate: str | None,
    seed: int,
    quiet: bool,
    verbose: bool,
) -> int:
    """Certified upper bound of the Lipschitz constant of an ONNX MODEL."""
    from onnxlip.analysis import Analysis, parse_norm
    from onnxlip.registry import rule_set

    _import_from_here(rule_modules)
    start = time.perf_counter()
    analysis = Analysis(
        model,
        parse_norm(norm),
        dict(map(_parse_shape, shapes)),
        inputs,
        outputs,
        rule_set(modules=rule_modules),
        provider,
        seed,
        tolerance,
        _parse_size(memory),
        timeout,
        confidence,
        search,
        "none" if quiet and not attained else below,
        _rows(data),
        sequential,
        vectors,
        method,
        pairs,
    )
    try:
        report = _with_progress(analysis.report, quiet or as_json)
    except OnnxlipError as error:
        if as_json and error.refused:
            seconds = time.perf_counter() - start
            click.echo(analysis.refusal(error.refused, seconds).to_json())
        raise
    if attained is not None:
        _save(analysis, attained)
    if certificate is not None:
        _certify(analysis, report, certificate)
    _show(report, as_json, quiet, verbose)
    assert report.upper is not None
    if limit is not None and report.upper.value > limit:
        from onnxlip.report.text import shown_up

        told = shown_up(report.upper.value)
        click.echo(
            f"onnxlip: gate exceeded: {report.upper.kind} upper bound {told} > --max {limit:g}",
            err=True,
        )
        return GATE_EXCEEDED
    return 0


def _rows(path: str | None) -> Any:
    """What --data holds, before anything else is done."""
    if path is None:
        return None
    from onnxlip.bounds.lower.data import load_data

    return load_data(path)


def _save(analysis: Analysis, path: str) -> None:
    if analysis.attained is None:
        raise UsageError(f"--attained {path}: there is no lower bound to save")
    analysis.attained.save(path)


def _certify(analysis: Analysis, report: Report, path: str) -> None:
    from onnxlip.certify import best_certificate

    assert report.upper is not None
    made = best_certificate(analysis)
    made.save(path)
    if made.bound > report.upper.value * (1 + 1e-6):
        from onnxlip.report.text import shown_up

        click.echo(
            f"onnxlip: {path} proves {shown_up(made.bound)}: certificates are made of "
            f"multipliers and of norms, not of what '{report.upper.method}' did",
            err=True,
        )


def _import_from_here(modules: tuple[str, ...]) -> None:
    """--rules finds modules in the current folder, as `python -m` does."""
    if modules and "" not in sys.path:
        sys.path.insert(0, "")


def _with_progress(run: Callable[..., Report], silent: bool) -> Report:
    """Run with a bar on a terminal's stderr, shown once the work has taken half a second."""
    if silent or not sys.stderr.isatty():
        return run()
    start, bar = time.perf_counter(), None

    def tell(done: int, total: int, name: str) -> None:
        nonlocal bar
        if bar is None and time.perf_counter() - start > 0.5:
            bar = _bar()
            bar[0].start()
        if bar is not None:
            bar[0].update(bar[1], completed=done, total=total, description=name[:40])

    try:
        return run(tell)
    finally:
        if bar is not None:
            bar[0].stop()


def _bar() -> tuple[Any, Any]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    progress = Progress(
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.description}", markup=False),
        console=Console(stderr=True),
        transient=True,
    )
    return progress, progress.add_task("", total=None)


def _show(report: Report, as_json: bool, quiet: bool, verbose: bool) -> None:
    if as_json:
        click.echo(report.to_json())
        return
    if quiet:
        assert report.upper is not None
        click.echo(f"{report.upper.value!r}")
        return
    from onnxlip.report.text import report_lines

    click.echo("\n".join(report_lines(report, _width(), verbose)))


def _width() -> int | None:
    """Columns of the terminal; None in a pipe, where lines are as long as they are."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


@click.command("onnxlip ops")
@click.option(
    "--rules",
    "rule_modules",
    multiple=True,
    metavar="MODULE",
    help="A Python module with RULES of yours. Repeatable.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the catalogue as JSON.")
def ops(rule_modules: tuple[str, ...], as_json: bool) -> int:
    """The catalogue of rules: op, version, form, source, and where the rule comes from."""
    from onnxlip.registry import rule_set
    from onnxlip.report.catalogue import catalogue_json, catalogue_lines

    _import_from_here(rule_modules)
    rules = rule_set(modules=rule_modules)
    click.echo(catalogue_json(rules) if as_json else "\n".join(catalogue_lines(rules)))
    return 0


@click.command("onnxlip replay")
@click.argument("file", type=click.Path())
@click.argument("model", type=click.Path())
@click.option("--shape", "shapes", multiple=True, metavar="NAME=1,3,224,224", help="As saved with.")
@click.option("--input", "inputs", multiple=True, metavar="TENSOR", help="As saved with.")
@click.option("--output", "outputs", multiple=True, metavar="TENSOR", help="As saved with.")
@click.option("--rules", "rule_modules", multiple=True, metavar="MODULE", help="As saved with.")
def replay(
    file: str,
    model: str,
    shapes: tuple[str, ...],
    inputs: tuple[str, ...],
    outputs: tuple[str, ...],
    rule_modules: tuple[str, ...],
) -> int:
    """Evaluate the quotient at the two points in FILE (of --attained) anew, on MODEL."""
    from onnxlip.analysis import Analysis
    from onnxlip.bounds.lower import attained
    from onnxlip.registry import rule_set

    _import_from_here(rule_modules)
    told = attained.saved(file)
    shaped, rules = dict(map(_parse_shape, shapes)), rule_set(modules=rule_modules)
    analysis = Analysis(model, told.norm, shaped, inputs, outputs, rules)
    value = attained.replay(analysis, file)
    click.echo(f"{value!r}")
    if abs(value - told.value) > 1e-6 * told.value:
        click.echo(f"onnxlip: the file says {told.value!r}", err=True)
        return GATE_EXCEEDED
    return 0


_COMMANDS = {"ops": ops, "replay": replay, "verify": verify}


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code. A file named like a command is ./NAME."""
    words = sys.argv[1:] if arguments is None else arguments
    command, rest = bound, words
    if words and words[0] in _COMMANDS:
        command, rest = _COMMANDS[words[0]], words[1:]
    try:
        code = command.main(rest, standalone_mode=False)
        return int(code or 0)
    except OnnxlipError as error:
        click.echo(f"onnxlip: {error}", err=True)
        return error.exit_code
    except click.ClickException as error:
        click.echo(f"onnxlip: {error.format_message()} (--help tells more)", err=True)
        return 2
    except (click.Abort, KeyboardInterrupt):
        click.echo("onnxlip: stopped", err=True)
        return 130
    except BrokenPipeError:
        sys.stderr.close()
        return 0
    except MemoryError:
        click.echo("onnxlip: out of memory; nothing was written", err=True)
        return 2
