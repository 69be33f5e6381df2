"""``python -m emra_deploy`` is ``emra``."""

import sys

from emra_deploy.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
