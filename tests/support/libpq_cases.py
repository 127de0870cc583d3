"""URLs and environments, and whether libpq connects with them.

`{…}` stands for a port or a path of `tests.support.libpq.Surface`.
"""

from dataclasses import dataclass, field
from typing import Final


@dataclass(frozen=True, slots=True)
class Case:
    """One URL in one environment.

    Attributes:
        url: of the database.
        names: what the reason must name where there is no connection; empty if there is one.
        password: of main.conf.
        variables: the environment.
        since: the release of libpq that knows all options; older ones are not asked.
    """

    url: str
    names: str = ""
    password: str = ""
    variables: dict[str, str] = field(default_factory=dict)
    since: int = 0

    def __str__(self) -> str:
        variables = "".join(f" {name}={value}" for name, value in self.variables.items())
        return f"{self.url}{variables}"


_RIGHT: Final = "right"  # the password of all roles that have one
_AT: Final = "@127.0.0.1:{port}/rudder"
_HOME: Final = {"HOME": "{files}/home"}
_T: Final = f"postgres://trusted{_AT}"
_V: Final = "sslrootcert={files}/ca.crt"
_CERT: Final = "sslcert={files}/client.crt&sslkey={files}/client.key"
_LOCAL: Final = "postgres://trusted@localhost:{port}/rudder?hostaddr=127.0.0.1&sslmode="

CASES: Final = (
    # The form of the URL
    Case(_T),
    Case(f"postgresql://trusted{_AT}"),
    Case(f"POSTGRES://trusted{_AT}", "url"),
    Case(f"mysql://trusted{_AT}", "url"),
    Case(f"postgres://t%72usted{_AT}"),
    Case(f"postgres://t%zzrusted{_AT}", "url"),
    Case("postgres://trusted@127.0.0.1:{port}/o%20d%2Fd"),
    Case("postgres://trusted@127.0.0.1:{port}/nowhere", "nowhere"),
    Case("postgres://127.0.0.1:{port}/rudder?user=trusted"),
    Case("postgres://trusted@127.0.0.1:{port}?dbname=rudder"),
    Case("postgres://trusted@/rudder?host=127.0.0.1&port={port}"),
    Case("postgres://trusted@%31%32%37.0.0.1:{port}/rudder"),
    Case("postgres://trusted@127.0.0.1:0/rudder", "port"),
    Case("postgres://trusted@127.0.0.1:65536/rudder", "port"),
    Case("postgres://trusted@127.0.0.1:x/rudder", "port"),
    Case("postgres://trusted@[::1:{port}/rudder", "host"),
    Case("postgres://trusted@[::1]:{closed}/rudder", "[::1]:{closed}"),
    Case("postgres://trusted@a..b:{port}/rudder", "a..b"),
    Case("postgres://trusted@127.0.0.1:{closed}/rudder", "127.0.0.1:{closed}"),
    Case(_T + "?sslmode", "url"),
    Case(_T + "?application_name=a=b", "url"),
    Case(_T + "?sslmode=prefer&&keepalives=1", "url"),
    Case(_T + "?sslmode=prefer&"),
    Case(_T + "?application_name=a+b%20c#d"),
    # Options
    Case(_T + "?currentSchema=public", "currentSchema"),
    Case(_T + "?statement_timeout=5000", "statement_timeout"),
    Case(_T + "?ssl=false", "ssl"),
    Case(_T + "?options=-c%20statement_timeout%3D5000"),
    Case(_T + "?options=-c%20work_mem%3Dlots", "work_mem"),
    Case(_T + "?connect_timeout=soon", "connect_timeout"),
    Case(_T + "?connect_timeout=0"),
    Case(_T + "?connect_timeout=-1"),
    Case(_T + "?keepalives=1&keepalives_idle=30&keepalives_interval=5&keepalives_count=3"),
    Case(_T + "?keepalives=yes", "keepalives"),
    Case(_T + "?tcp_user_timeout=10000"),
    Case(_T + "?fallback_application_name=x&client_encoding=utf8&sslcompression=0"),
    Case(_T + "?gssencmode=disable&gsslib=gssapi&krbsrvname=postgres"),
    Case(_T + "?gssencmode=maybe", "gssencmode"),
    Case(_T + "?gssencmode=require", "gssencmode"),
    Case(_T + "?replication=false"),
    Case(_T + "?replication=database", "replication"),
    Case(_T + "?target_session_attrs=read-write"),
    Case(_T + "?target_session_attrs=primary"),
    Case(_T + "?target_session_attrs=prefer-standby"),
    Case(_T + "?target_session_attrs=standby", "target_session_attrs"),
    Case(_T + "?target_session_attrs=read-only", "target_session_attrs"),
    Case(_T + "?target_session_attrs=best", "target_session_attrs"),
    Case(_T + "?load_balance_hosts=random", since=16),
    Case(_T + "?load_balance_hosts=often", "load_balance_hosts", since=16),
    # Unix sockets
    Case("postgres://trusted@/rudder?host={socket}&port={port}"),
    Case("postgres:///rudder?host={socket}&port={port}&user=trusted&sslmode=require"),
    Case("postgres:///rudder?host=/nonexistent&user=trusted", "/nonexistent/.s.PGSQL.5432"),
    Case("postgres:///rudder?user=trusted", "PGSQL.{closed}", variables={"PGPORT": "{closed}"}),
    Case("postgres:///rudder?host={socket}&port={port}&requirepeer=nobody&user=trusted"),
    Case("postgres:///rudder?host={socket}&port={port}&requirepeer=me&user=trusted", "requirepeer"),
    Case("postgres:///?host={socket}&port={port}&dbname=rudder", 'role "'),
    # Several hosts
    Case("postgres://trusted@127.0.0.1:{closed},127.0.0.1:{port}/rudder"),
    Case("postgres://trusted@127.0.0.1:{frozen},127.0.0.1:{port}/rudder?connect_timeout=2"),
    Case("postgres://trusted@127.0.0.1,127.0.0.1/rudder?port={closed},{port}"),
    Case("postgres://trusted@nowhere.invalid,127.0.0.1/rudder?port={port}"),
    Case("postgres://trusted@[::1]:{closed},127.0.0.1:{port}/rudder"),
    Case("postgres://trusted@a,b/rudder?port=1,2,3", "port"),
    Case("postgres://trusted@127.0.0.1/rudder?hostaddr=127.0.0.1,127.0.0.1", "hostaddr"),
    Case("postgres://trusted@nowhere.invalid:{port}/rudder?hostaddr=127.0.0.1"),
    Case("postgres://trusted@127.0.0.1:{port}/rudder?hostaddr=localhost", "127.0.0.1"),
    Case("postgres://nobody@127.0.0.1:{port},127.0.0.1:{port}/rudder", "nobody", _RIGHT),
    # Passwords
    Case(f"postgres://rudder{_AT}", "", _RIGHT),
    Case(f"postgres://old{_AT}", "", _RIGHT),
    Case(f"postgres://clear{_AT}", "", _RIGHT),
    Case(f"postgres://rudder{_AT}", "rudder", "wrong"),
    Case(f"postgres://rudder{_AT}", "output.database.password"),
    Case(f"postgres://rudder{_AT}?passfile={{files}}/pgpass"),
    Case(f"postgres://rudder{_AT}?passfile={{files}}/open.pgpass", "open.pgpass"),
    Case(f"postgres://rudder{_AT}?passfile={{files}}/none", "output.database.password"),
    Case(f"postgres://rudder{_AT}", variables={"PGPASSFILE": "{files}/pgpass"}),
    Case(f"postgres://rudder{_AT}", variables={"PGPASSWORD": _RIGHT}),
    Case(f"postgres://rudder{_AT}", "rudder", "wrong", {"PGPASSFILE": "{files}/pgpass"}),
    Case(f"postgres://rudder{_AT}?require_auth=scram-sha-256", "", _RIGHT, since=16),
    Case(f"postgres://clear{_AT}?require_auth=scram-sha-256", "require_auth", _RIGHT, since=16),
    Case(f"postgres://clear{_AT}?require_auth=!password", "require_auth", _RIGHT, since=16),
    Case(_T + "?require_auth=none", since=16),
    Case(_T + "?require_auth=md5", "require_auth", since=16),
    Case(_T + "?require_auth=magic", "require_auth", since=16),
    Case(f"postgres://rudder{_AT}?channel_binding=require", "", _RIGHT),
    Case(f"postgres://rudder{_AT}?channel_binding=disable", "", _RIGHT),
    Case(f"postgres://rudder{_AT}?channel_binding=require", "rudder", "wrong"),
    Case(
        f"postgres://rudder{_AT}?channel_binding=require&sslmode=disable",
        "channel_binding",
        _RIGHT,
    ),
    Case(f"postgres://old{_AT}?channel_binding=require", "channel_binding", _RIGHT),
    Case(_T + "?channel_binding=require", "channel_binding"),
    Case(_T + "?channel_binding=always", "channel_binding"),
    # TLS
    Case(_T + "?ssl=true"),
    Case(_T + "?requiressl=1"),
    Case(_T + "?sslmode=disable"),
    Case(_T + "?sslmode=allow"),
    Case(_T + "?sslmode=require"),
    Case(_T + "?sslmode=", "sslmode"),
    Case(_T + "?sslmode=on", "sslmode"),
    Case(_T + "?sslmode=verify-ca", "root.crt"),
    Case(_T + f"?sslmode=verify-ca&{_V}"),
    Case(_T + f"?sslmode=verify-full&{_V}", "127.0.0.1:{port}"),
    Case(_LOCAL + f"verify-full&{_V}"),
    Case("postgres://trusted@/rudder?hostaddr=127.0.0.1&port={port}&sslmode=require"),
    Case(
        f"postgres://trusted@/rudder?hostaddr=127.0.0.1&port={{port}}&sslmode=verify-full&{_V}",
        "host name",
    ),
    Case(_T + "?sslmode=verify-ca&sslrootcert={files}/other.crt", "certificate"),
    Case(_T + "?sslmode=verify-ca&sslrootcert={files}/broken", "{files}/broken"),
    Case(_T + "?sslmode=verify-ca&sslrootcert=/nonexistent", "/nonexistent"),
    Case(_T + "?sslmode=require&sslrootcert=/nonexistent"),
    Case(_T + "?sslmode=require&sslrootcert={files}/other.crt", "certificate"),
    Case(_T + "?sslmode=prefer&sslrootcert={files}/other.crt"),
    Case(_T + "?sslmode=require&sslcert=/nonexistent&sslkey=/nonexistent"),
    Case(_T + "?sslmode=require&sslcert={files}/client.crt&sslkey=/nonexistent", "/nonexistent"),
    Case(_T + "?sslmode=require&sslcert={files}/client.crt&sslkey={files}/open.key", "open.key"),
    Case(_T + "?sslmode=require&sslcert={files}/client.crt&sslkey={files}/wrong.key", "wrong.key"),
    Case(_T + "?sslmode=prefer&sslcert={files}/client.crt&sslkey={files}/open.key"),
    Case(_T + "?sslmode=disable&sslcert={files}/client.crt&sslkey={files}/open.key"),
    Case(_T + "?sslmode=require&sslcrl=/nonexistent"),
    Case(_T + f"?sslmode=verify-ca&{_V}&sslcrl=/nonexistent"),
    Case(_T + f"?sslmode=verify-ca&{_V}&sslcrl={{files}}/good.crl"),
    Case(_T + f"?sslmode=verify-ca&{_V}&sslcrl={{files}}/bad.crl", "revoked"),
    Case(_T + "?sslmode=verify-full&sslrootcert=system", "certificate", since=16),
    Case(_T + "?sslmode=require&sslrootcert=system", "sslmode", since=16),
    Case(_T + "?sslrootcert=system", "certificate", since=16),
    Case(_T + "?sslmode=prefer&sslnegotiation=direct", "sslnegotiation", since=17),
    Case(_T + "?sslmode=require&ssl_min_protocol_version=TLSv1.3"),
    Case(_T + "?sslmode=require&ssl_max_protocol_version=tlsv1.2&sslsni=0"),
    Case(
        _T + "?ssl_min_protocol_version=TLSv1.3&ssl_max_protocol_version=TLSv1.2",
        "ssl_max_protocol_version",
    ),
    Case(_T + "?ssl_min_protocol_version=SSLv3", "ssl_min_protocol_version"),
    Case(f"postgres://certified{_AT}?sslmode=require&{_CERT}"),
    Case(f"postgres://certified{_AT}?sslmode=require", "certificate"),
    Case(
        f"postgres://certified{_AT}?sslmode=require&sslcert={{files}}/stranger.crt"
        "&sslkey={files}/stranger.key",
        "operator: 127.0.0.1:{port}: TLS: ",
    ),
    Case(
        f"postgres://certified{_AT}?sslmode=require&sslcertmode=disable&{_CERT}", "cert", since=16
    ),
    Case(f"postgres://tls_only{_AT}?sslmode=disable", "tls_only", _RIGHT),
    Case(f"postgres://tls_only{_AT}?sslmode=allow", "", _RIGHT),
    Case(f"postgres://plain_only{_AT}?sslmode=prefer", "", _RIGHT),
    Case(f"postgres://plain_only{_AT}?sslmode=require", "plain_only", _RIGHT),
    # The home directory
    Case(f"postgres://certified{_AT}?sslmode=require", variables=_HOME),
    Case(_T + "?sslmode=verify-ca", variables=_HOME),
    Case(_T + "?sslmode=require", "certificate", variables={"HOME": "{files}/strange"}),
    Case(_T, variables={"HOME": "{files}/strange"}),
    Case(_T, variables={"HOME": "{files}/loop"}),
    Case(_T + "?sslmode=require", "{files}/loop", variables={"HOME": "{files}/loop"}),
    Case(_T + "?sslmode=verify-ca", "root.crt", variables={"HOME": "{files}/loop"}),
    Case(f"postgres://rudder{_AT}", "", _RIGHT, {"HOME": "{files}/loop"}),
    # The environment
    Case(
        "postgres://",
        variables={
            "PGHOST": "127.0.0.1",
            "PGPORT": "{port}",
            "PGUSER": "trusted",
            "PGDATABASE": "rudder",
        },
    ),
    Case(
        "postgres:///rudder",
        variables={"PGHOST": "{socket}", "PGPORT": "{port}", "PGUSER": "trusted"},
    ),
    Case("postgres://trusted@/rudder", variables={"PGHOSTADDR": "127.0.0.1", "PGPORT": "{port}"}),
    Case(_T, variables={"PGHOST": "nowhere.invalid", "PGPORT": "1", "PGUSER": "nobody"}),
    Case("postgres://trusted@127.0.0.1/rudder", "PGPORT", variables={"PGPORT": "x"}),
    Case(_T, variables={"PGSSLMODE": "require"}),
    Case(_T, "PGSSLMODE", variables={"PGSSLMODE": "on"}),
    Case(_T + "?sslmode=disable", variables={"PGSSLMODE": "require"}),
    Case(_T, variables={"PGREQUIRESSL": "1"}),
    Case(
        _T, "{files}/broken", variables={"PGSSLROOTCERT": "{files}/broken", "PGSSLMODE": "require"}
    ),
    Case(
        f"postgres://certified{_AT}?sslmode=require",
        variables={"PGSSLCERT": "{files}/client.crt", "PGSSLKEY": "{files}/client.key"},
    ),
    Case(_T, "work_mem", variables={"PGOPTIONS": "-c work_mem=lots"}),
    Case(_T, variables={"PGOPTIONS": "-c work_mem=8MB", "PGAPPNAME": "x", "PGTZ": "UTC"}),
    Case(_T, "TimeZone", variables={"PGTZ": "Mars/Olympus"}),
    Case(_T, "PGCONNECT_TIMEOUT", variables={"PGCONNECT_TIMEOUT": "soon"}),
    Case(_T, "target_session_attrs", variables={"PGTARGETSESSIONATTRS": "standby"}),
    Case(_T, "PGCHANNELBINDING", variables={"PGCHANNELBINDING": "x"}),
    # Services
    Case("postgres://127.0.0.1:{port}?service=one", variables=_HOME),
    Case(
        "postgres://127.0.0.1:{port}",
        variables={"PGSERVICE": "one", "PGSERVICEFILE": "{files}/services"},
    ),
    Case("postgres://127.0.0.1:{port}?service=none", "none", variables=_HOME),
    Case(_T + "?service=two", "{files}/home/.pg_service.conf, line 5", variables=_HOME),
    Case(_T + "?service=three", "{files}/home/.pg_service.conf, line 7", variables=_HOME),
    Case(_T + "?service=one", "{files}/none", variables={"PGSERVICEFILE": "{files}/none"}),
    # PgBouncer
    Case("postgres://rudder@127.0.0.1:{session}/rudder", "", _RIGHT),
    Case("postgres://rudder@127.0.0.1:{transaction}/rudder", "", _RIGHT),
    Case("postgres://rudder@127.0.0.1:{session}/rudder?application_name=x", "", _RIGHT),
    Case("postgres://rudder@127.0.0.1:{session}/rudder", "127.0.0.1", "wrong"),
    Case(
        "postgres://rudder@127.0.0.1:{session}/rudder?options=-cwork_mem%3D8MB", "options", _RIGHT
    ),
    Case("postgres://rudder@127.0.0.1:{session}/rudder?sslmode=require", "sslmode", _RIGHT),
    Case(
        "postgres://rudder@127.0.0.1:{transaction}/rudder?target_session_attrs=primary", "", _RIGHT
    ),
)
