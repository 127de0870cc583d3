"""What a survey found."""

from typing import Final, Literal

import msgspec

TABLES: Final = ("ruddersysevents", "reportsexecution")
SEQUENCE: Final = "serial"

#: Where a row of tomorrow would go: where it should (the table may have no partitions), to the
#: default partition, or nowhere.
Tomorrow = Literal["ready", "default", "missing"]


class Column(msgspec.Struct, frozen=True):
    """A column.

    Attributes:
        type: as PostgreSQL writes it.
        default: as PostgreSQL writes it; "" for none.
        must_be_given: whether a row without a value for it is refused.
    """

    type: str
    default: str = ""
    must_be_given: bool = False


class Index(msgspec.Struct, frozen=True):
    """An index.

    Attributes:
        table: what it is on.
        columns: in their order; expressions are left out.
        unique: whether it forbids duplicates in the whole table.
        whole: whether it covers all rows.
    """

    table: str
    columns: tuple[str, ...]
    unique: bool = False
    whole: bool = True


class Numbers(msgspec.Struct, frozen=True):
    """How far ids are.

    Attributes:
        last: number that the sequence gave last, None before the first.
        maximum: last number that the sequence can give.
        cycle: whether it begins again after that.
        highest: highest id in the table; None for an empty one, or without an index to ask.
    """

    last: int | None
    maximum: int
    cycle: bool
    highest: int | None = None


class Refusal(msgspec.Struct, frozen=True):
    """How the tables refused a run log that sound ones accept."""

    detail: str
    sqlstate: str


class Survey(msgspec.Struct, frozen=True, kw_only=True):
    """What was found.

    Attributes:
        version: server_version_num, 130004 for 13.4.
        encoding: of the database, "UTF8" for example.
        standby: whether it replays what another server writes.
        read_only: whether a transaction may write nothing.
        superuser: whether the account may do everything.
        account: the role that the session has.
        now: the server's clock, unix time in seconds.
        standbys: servers that replicate from it.
        synchronous: whether some of them are named as synchronous.
        synchronous_commit: what commits of the session wait for.
        pooled: whether a pooler is between.
        lost_settings: settings of the URL or the environment that have not reached the session.
        search_path: the schemas in which the session looks for tables.
        columns: by table and name, of the tables that the account can see.
        elsewhere: schema of each table or sequence that is in none of these schemas, by its name.
        indexes: of the same tables.
        rights: for example "ruddersysevents INSERT" → whether it is granted; what does not exist
            is absent.
        numbers: of rows; None if the account may not know.
        copy: whether rows can go in by COPY.
        partitioned: whether `ruddersysevents` has partitions.
        tomorrow: where a row of tomorrow would go.
        refusal: how the tables refused a run log on trial; None if they did not, or could not be
            asked in time.
    """

    version: int
    encoding: str
    standby: bool
    read_only: bool
    superuser: bool
    account: str
    now: float
    standbys: int = 0
    synchronous: bool = False
    synchronous_commit: str = "on"
    pooled: bool = False
    lost_settings: tuple[str, ...] = ()
    search_path: str = "public"
    columns: dict[str, dict[str, Column]]
    elsewhere: dict[str, str] = msgspec.field(default_factory=dict)
    indexes: tuple[Index, ...]
    rights: dict[str, bool]
    numbers: Numbers | None = None
    copy: bool = True
    partitioned: bool = False
    tomorrow: Tomorrow = "ready"
    refusal: Refusal | None = None
