"""`python -m load_tests.dialer`: see `command`."""

import sys

if __name__ == "__main__":
    # Every child imports this module once more, and needs nothing of the command.
    from load_tests.dialer.command import main

    sys.exit(main())
