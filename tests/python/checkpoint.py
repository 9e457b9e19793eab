"""Moves everything from the log of a SQLite file into the file, and removes the log.

usage: checkpoint.py FILE
"""

import sqlite3
import sys

connection = sqlite3.connect(sys.argv[1])
connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
connection.close()
