"""The options of libpq, which are those of a database URL, and the values that they accept.

Source: the PostgreSQL manual, 32.1.2 (Parameter Key Words) and 32.15 (Environment Variables).
"""

import re
from collections.abc import Mapping
from typing import Final

import msgspec

from relayd.config.toml import UnexpectedError, close_word, shown
from relayd.system.addresses import HostError, usable_host

_TLS_VERSIONS: Final = ("tlsv1", "tlsv1.1", "tlsv1.2", "tlsv1.3")


class OptionError(UnexpectedError):
    """An option of libpq has a value that cannot be used; its text names it.

    Attributes:
        name: the option, or the environment variable that it comes from.
    """

    def __init__(
        self,
        name: str,
        expected: str,
        got: str = "something else",
        *,
        suggestion: str | None = None,
    ) -> None:
        super().__init__(f"{name} to be {expected}", got, suggestion=suggestion)
        self.name = name


class Option(msgspec.Struct, frozen=True):
    """One option.

    Attributes:
        variable: the environment variable that gives its default, "" without one.
        values: what it accepts, in lower case where `folded`; empty: any text.
        folded: whether upper and lower case are the same.
        number: whether it is an integer.
        beyond: values of libpq that relayd refuses, because it cannot do what they demand.
        used: whether it has an effect; one without gives a warning.
    """

    variable: str = ""
    values: tuple[str, ...] = ()
    folded: bool = False
    number: bool = False
    beyond: tuple[str, ...] = ()
    used: bool = True


#: Every option of libpq 18. Demands of security that cannot be met are refused, never ignored.
OPTIONS: Final[dict[str, Option]] = {
    "host": Option("PGHOST"),
    "hostaddr": Option("PGHOSTADDR"),
    "port": Option("PGPORT"),
    "dbname": Option("PGDATABASE"),
    "user": Option("PGUSER"),
    "password": Option("PGPASSWORD"),
    "passfile": Option("PGPASSFILE"),
    "service": Option("PGSERVICE"),
    "require_auth": Option("PGREQUIREAUTH"),
    "requirepeer": Option("PGREQUIREPEER"),
    "channel_binding": Option("PGCHANNELBINDING", ("disable", "prefer", "require")),
    "connect_timeout": Option("PGCONNECT_TIMEOUT", number=True),
    "options": Option("PGOPTIONS"),
    "application_name": Option("PGAPPNAME"),
    "fallback_application_name": Option(),
    # COPY lines are UTF-8, so the operator cannot choose the client encoding.
    "client_encoding": Option("PGCLIENTENCODING", used=False),
    "keepalives": Option(number=True),
    "keepalives_idle": Option(number=True),
    "keepalives_interval": Option(number=True),
    "keepalives_count": Option(number=True),
    "tcp_user_timeout": Option(number=True),
    "replication": Option(
        values=("false", "off", "no", "0"),
        folded=True,
        beyond=("true", "on", "yes", "1", "database"),
    ),
    "sslmode": Option(
        "PGSSLMODE", ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
    ),
    "sslnegotiation": Option("PGSSLNEGOTIATION", ("postgres", "direct")),
    "sslcert": Option("PGSSLCERT"),
    "sslkey": Option("PGSSLKEY"),
    "sslpassword": Option(),
    "sslrootcert": Option("PGSSLROOTCERT"),
    "sslcrl": Option("PGSSLCRL"),
    "sslcrldir": Option("PGSSLCRLDIR"),
    "sslcertmode": Option("PGSSLCERTMODE", ("disable", "allow"), beyond=("require",)),
    "sslsni": Option("PGSSLSNI"),
    "sslkeylogfile": Option(),
    "sslcompression": Option("PGSSLCOMPRESSION", used=False),
    "ssl_min_protocol_version": Option("PGSSLMINPROTOCOLVERSION", ("", *_TLS_VERSIONS), True),
    "ssl_max_protocol_version": Option("PGSSLMAXPROTOCOLVERSION", ("", *_TLS_VERSIONS), True),
    "min_protocol_version": Option("PGMINPROTOCOLVERSION", ("3.0",), beyond=("3.2", "latest")),
    "max_protocol_version": Option("PGMAXPROTOCOLVERSION", ("3.0", "3.2", "latest")),
    "target_session_attrs": Option(
        "PGTARGETSESSIONATTRS",
        ("any", "read-write", "read-only", "primary", "standby", "prefer-standby"),
    ),
    "load_balance_hosts": Option("PGLOADBALANCEHOSTS", ("disable", "random")),
    # Kerberos is not built in; a server that insists on it says so.
    "gssencmode": Option("PGGSSENCMODE", ("disable", "prefer"), beyond=("require",)),
    "gssdelegation": Option("PGGSSDELEGATION", used=False),
    "gsslib": Option("PGGSSLIB", used=False),
    "krbsrvname": Option("PGKRBSRVNAME", used=False),
    "scram_client_key": Option(used=False),
    "scram_server_key": Option(used=False),
    "oauth_issuer": Option(used=False),
    "oauth_client_id": Option(used=False),
    "oauth_client_secret": Option(used=False),
    "oauth_scope": Option(used=False),
}

#: Options of the JDBC driver → what to write here instead; "" where there is nothing like it.
_OF_JDBC: Final = {
    "applicationname": "application_name",
    "channelbinding": "channel_binding",
    "connecttimeout": "connect_timeout",
    "currentschema": "options=-csearch_path%3DSCHEMA",
    "gssencmode": "gssencmode",
    "kerberosservername": "krbsrvname",
    "loadbalancehosts": "load_balance_hosts",
    "logintimeout": "connect_timeout",
    "localsocketaddress": "",
    "preparethreshold": "",
    "readonly": "",
    "sockettimeout": "tcp_user_timeout",
    "ssl": "sslmode",
    "sslfactory": "",
    "sslhostnameverifier": "",
    "stringtype": "",
    "targetservertype": "target_session_attrs",
    "tcpkeepalive": "keepalives",
}
_CAMEL_CASE: Final = re.compile(r"[a-z]+[A-Z][A-Za-z]*")
#: A text that may be shown as the name of an option.
_NAME: Final = re.compile(r"[A-Za-z_]{1,40}", re.ASCII)

#: Settings of the session that libpq takes from the environment.
SETTING_VARIABLES: Final = {"PGDATESTYLE": "datestyle", "PGTZ": "timezone", "PGGEQO": "geqo"}

_AUTH_METHODS: Final = frozenset(
    {"password", "md5", "gss", "sspi", "scram-sha-256", "oauth", "none"}
)
_PORTS: Final = "numbers from 1 to 65535"


def unknown_option(name: str, *, secret: bool = False) -> OptionError:
    """Return the error for an option that libpq does not know.

    Args:
        name: the option.
        secret: whether it could be a part of a password, so that it must not be shown.
    """
    meant = _OF_JDBC.get(name.lower())
    of_jdbc = meant is not None or _CAMEL_CASE.fullmatch(name) is not None
    if meant is None:
        meant = close_word(name, OPTIONS, cutoff=0.75)
    visible = (meant is not None or _NAME.fullmatch(name)) and not secret
    return OptionError(
        name if visible else "an option",
        "one of libpq's options",
        "one of JDBC's" if of_jdbc and visible else "an unknown one",
        suggestion=meant if meant and visible else None,
    )


def check_option(name: str, value: str, origin: str | None = None) -> None:
    """Check one value.

    Args:
        name: a key of `OPTIONS`.
        value: what it was set to.
        origin: where the value is from, if not from an option of that name.

    Raises:
        OptionError: the value is not valid, or relayd cannot do what it demands.
    """
    option, origin = OPTIONS[name], origin or name
    compared = value.lower() if option.folded else value
    if compared in option.beyond:
        raise OptionError(origin, f"{_listed(option.values)}: relayd cannot do more", shown(value))
    if option.values and compared not in option.values:
        meant = close_word(value, filter(None, option.values))
        raise OptionError(origin, _listed(option.values), shown(value), suggestion=meant)
    if option.number and not _is_number(value):
        raise OptionError(origin, "an integer", shown(value))
    if name == "port":
        for port in value.split(","):
            _check_port(port, origin)
    if name in {"host", "hostaddr"}:
        for host in value.split(","):
            _check_host(host, origin)
    if name == "require_auth":
        _check_methods(value, origin)


def check_together(options: Mapping[str, str]) -> None:
    """Check values that depend on each other.

    Raises:
        OptionError: two of them contradict each other.
    """
    hosts, ports = _count(options, "host"), _count(options, "port")
    addresses = _count(options, "hostaddr")
    if addresses and hosts and addresses != hosts:
        raise OptionError("hostaddr", f"as many values as host ({hosts})", str(addresses))
    if ports > 1 and ports != (addresses or hosts or 1):
        raise OptionError("port", f"as many values as host ({addresses or hosts or 1})", str(ports))
    mode = ssl_mode(options)
    if options.get("sslrootcert") == "system" and mode != "verify-full":
        raise OptionError("sslmode", "verify-full, because of sslrootcert=system", shown(mode))
    if options.get("sslnegotiation") == "direct" and mode in {"disable", "allow", "prefer"}:
        raise OptionError(
            "sslmode", "require or more, because of sslnegotiation=direct", shown(mode)
        )
    lowest = options.get("ssl_min_protocol_version", "").lower() or "tlsv1.2"
    highest = options.get("ssl_max_protocol_version", "").lower()
    if highest and _TLS_VERSIONS.index(highest) < _TLS_VERSIONS.index(lowest):
        expected = f"not less than ssl_min_protocol_version ({lowest})"
        raise OptionError("ssl_max_protocol_version", expected, shown(highest))


def ssl_mode(options: Mapping[str, str]) -> str:
    """Return sslmode or its default."""
    default = "verify-full" if options.get("sslrootcert") == "system" else "prefer"
    return options.get("sslmode", default)


def _check_port(port: str, origin: str) -> None:
    # Not shown: an unescaped character in a password can move a part of it here.
    if port.strip() and not (_is_number(port) and 1 <= int(port) <= 65535):
        raise OptionError(origin, _PORTS)


def _check_host(host: str, origin: str) -> None:
    if not host or host.startswith(("/", "@")):  # the usual place, or a directory of Unix sockets
        return
    try:
        usable_host(host)
    except HostError as error:
        raise OptionError(origin, str(error), shown(host)) from None


def _check_methods(value: str, origin: str) -> None:
    methods = [method.strip() for method in value.split(",")] if value else []
    negated = {method.startswith("!") for method in methods}
    known = {method.removeprefix("!") for method in methods} <= _AUTH_METHODS
    if not known or len(negated) > 1 or len(set(methods)) < len(methods):
        raise OptionError(origin, f"some of {_listed(tuple(sorted(_AUTH_METHODS)))}", shown(value))


def _count(options: Mapping[str, str], name: str) -> int:
    value = options.get(name, "")
    return value.count(",") + 1 if value else 0


def _is_number(text: str) -> bool:
    digits = text.strip().removeprefix("-").removeprefix("+")
    return digits.isascii() and digits.isdigit() and len(digits) <= 10


def _listed(values: tuple[str, ...]) -> str:
    words = [value for value in values if value]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"
