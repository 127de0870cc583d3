"""The two tables of Rudder that relayd writes to, as the web application creates them.

In production the web application owns them; the demo and the tests create the same ones. The role
`rudder` gets only the rights that relayd can rely on: SELECT and INSERT on both tables and USAGE
on the sequence.
"""

from pathlib import Path
from typing import Final

#: Role that relayd connects as. It has no password until one is set.
ROLE: Final = "rudder"

#: Database of the tables.
DATABASE: Final = "rudder"

#: What an administrator runs outside of a Rudder server: comments, tables, rights.
_SQL: Final = Path(__file__).with_name("tables.sql").read_text(encoding="utf-8")
_TABLES, _DO, _RIGHTS = _SQL.partition("\n\n")[2].rpartition("DO $$\n")

#: SQL for a superuser in an empty database. Roles belong to the server and are created if missing.
RUDDER_SCHEMA: Final = _TABLES.removesuffix("\n")

#: SQL for a superuser: revokes the default rights of all roles and grants `rudder` its rights.
#: Rights on a database are not copied from its template, so run this in each copy.
RUDDER_RIGHTS: Final = _DO + _RIGHTS
