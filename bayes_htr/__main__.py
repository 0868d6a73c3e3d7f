"""The entry of the command line, `bayes-htr` or `python -m bayes_htr`.

While modules are imported, an interruption (Ctrl-C) ends the process at once, as it ends any
program that does not handle it. A `KeyboardInterrupt` inside an import could instead surface as
another error, which the interrupted module raises in its place.
"""

import signal
import sys


def main() -> int:
    """Run the command line and return its exit status."""
    handler = signal.getsignal(signal.SIGINT)
    if handler is signal.default_int_handler:  # otherwise the caller has its own, or ignores it
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from bayes_htr.cli import main as run

    try:
        signal.signal(signal.SIGINT, handler)
        return run()
    except KeyboardInterrupt:  # before the command line could take it
        print("interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
