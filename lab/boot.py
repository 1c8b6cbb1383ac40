"""Run a machine, again for as long as it reboots.

nspawn reboots a machine itself, but not with ``--keep-unit``: then it ends with a code that asks whoever supervises it
to start it anew, as systemd would. Run as a script by a bare interpreter, so it imports nothing of the project.

    boot.py ARGV...
"""

import subprocess
import sys

REBOOT = 133  # nspawn's exit code when the machine asked for a reboot


def main(argv: list[str]) -> int:
    code = REBOOT
    while code == REBOOT:
        code = subprocess.run(argv, check=False).returncode
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
