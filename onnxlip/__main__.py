"""`python -m onnxlip` and the `onnxlip` command."""

import sys


def main() -> None:
    """Run the command line and exit with its code."""
    from onnxlip.cli import main as run

    sys.exit(run())


if __name__ == "__main__":
    main()
