"""A database as large as wanted: rows of a kilobyte that nothing compresses, in a table of their own in the service's
own file, written while Litestream replicates it.
"""

from __future__ import annotations

from lifeline.hosts import Remote
from lifeline.service import Service

PYTHON = "/opt/lifeline/current/venv/bin/python"
FILL_S = 1800.0

# As any second process at Genesis' file: it must not reset the log, which is Litestream's to do.
_FILL = """
import sys, time, apsw
path, wanted = sys.argv[1], int(sys.argv[2])
db = apsw.Connection(path)
db.set_busy_timeout(30000)
db.execute("PRAGMA wal_autocheckpoint = 0")
db.execute("CREATE TABLE IF NOT EXISTS ballast (id INTEGER PRIMARY KEY, data BLOB)")
size = lambda: next(db.execute("SELECT page_count * page_size FROM pragma_page_count, pragma_page_size"))[0]
while size() < wanted:
    db.execute("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 4000) "
               "INSERT INTO ballast(data) SELECT randomblob(1000) FROM n")
    time.sleep(0.05)
print(size())
"""


def fill(primary: Remote, service: Service, mb: int) -> int:
    """Until the first database of the primary has that many megabytes; the bytes it has."""
    path = str(service.databases[0].path)
    argv = ["sudo", "-n", PYTHON, "-c", _FILL, path, str(mb * 1_000_000)]
    return int(primary.run(argv, timeout=FILL_S).stdout)
