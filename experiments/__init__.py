"""Commands: ``python -m experiments.NAME``."""

import signal
import sys

if sys.argv[:1] == ["-m"] and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    # Python is about to import a command: Ctrl-C ends it without a traceback until ``cli.run`` listens.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
