"""PostgreSQL URLs: options that are kept or unused, and hidden passwords."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayd.config.database_url import DatabaseUrl, connect_arguments, split_password
from relayd.config.secret import Secret


@pytest.mark.parametrize(
    "url",
    [
        "postgres://rudder@127.0.0.1/rudder",
        "postgresql://rudder@db.example.com:5433/rudder",
        "postgres://a@h1,h2:5433/d",
        "postgres://a@[::1]:5434/d",
        "postgres://a@h/d?sslmode=verify-full&sslrootcert=/etc/ca.pem",
        "postgres://a@h1,h2/d?target_session_attrs=read-write",
        "postgres://a@h/d?application_name=relayd&options=-c%20statement_timeout%3D5000",
        "postgres:///d?host=/run/postgresql",
        "postgres://a%40b@h/d%2Fe",
        "postgres://",
    ],
)
@pytest.mark.history(32)
def test_url_is_kept_unchanged(url: str) -> None:
    """Hosts and options of a URL reach the driver unchanged, the password separately."""
    arguments = connect_arguments(url, Secret("p@/?#"))
    assert arguments == {"dsn": url, "password": "p@/?#"}


def test_an_ipv6_address_may_be_one_of_several_hosts() -> None:
    """The driver gets the hosts as an option, which every release of Python accepts."""
    checked = DatabaseUrl.parse("postgres://a@h1,h2:5433,[::1]:5434/d?sslmode=require&host=no")
    assert checked.dsn == "postgres://a@/d?sslmode=require&host=h1,h2:5433,%5B::1%5D:5434"


@pytest.mark.parametrize(
    "url",
    [
        "",
        "mysql://a@h/d",
        "host=h dbname=d",
        "postgres://a@h:0/d",
        "postgres://a@h:65536/d",
        "postgres://a@h:x/d",
        "postgres://a@[::1/d",
        "postgres://a@h h/d",
        "postgres://a:p/q@h/d",
        "postgres://a:1/q@h/d",
        "postgres://a:p#q@h/d",
        "postgres://a:1#q@h/d",
        "postgres://a@h/d?sslmode=on",
        "postgres://a@h/d?sslmode",
        "postgres://a@h/d?connect_timeout=soon",
        "postgres://a@h/d?" + "&".join(f"a{n}=1" for n in range(101)),
    ],
)
def test_invalid_url_is_refused(url: str) -> None:
    """A URL that the driver cannot use is a ValueError."""
    with pytest.raises(ValueError):  # noqa: PT011 - its text is never shown
        DatabaseUrl.parse(url)


@pytest.mark.parametrize(
    ("url", "bare", "password"),
    [
        ("postgres://a:p%40@h/d", "postgres://a@h/d", "p%40"),
        ("postgres://a:@h/d", "postgres://a@h/d", ""),
        ("postgres://a:p:q@r@h/d", "postgres://a@h/d", "p:q@r"),
        ("postgres://a@h/d?password=p&sslmode=require", "postgres://a@h/d?sslmode=require", "p"),
        ("postgres://a@h/d", "postgres://a@h/d", None),
    ],
)
def test_password_is_removed_from_the_url(url: str, bare: str, password: str | None) -> None:
    """The rest of a URL does not contain the password, wherever it was."""
    left, secret = split_password(url)
    assert left == bare
    assert (secret.reveal() if secret is not None else None) == password


def test_options_of_libpq_alone_are_dropped_and_named() -> None:
    """Options that the server would reject as settings are not sent, but listed as unused."""
    checked = DatabaseUrl.parse(
        "postgres://a@h/d?channel_binding=require&connect_timeout=5&client_encoding=latin1"
        "&keepalives=1&application_name=x"
    )
    assert checked.dsn == "postgres://a@h/d?application_name=x"
    assert checked.connect_timeout == 5
    assert checked.unused == ("channel_binding", "client_encoding", "keepalives")


def test_connect_timeout_becomes_an_argument() -> None:
    """The seconds of one connection attempt go to the driver; 0 keeps its default."""
    assert connect_arguments("postgres://a@h/d?connect_timeout=5", None)["timeout"] == 5.0
    assert "timeout" not in connect_arguments("postgres://a@h/d?connect_timeout=0", None)


@given(st.text(max_size=60) | st.text("ab@:/?#[]%&=,1 ", max_size=30))
def test_any_text_is_accepted_or_refused(text: str) -> None:
    """A URL either raises ValueError or can be given to the driver."""
    url = f"postgres://{text}"
    try:
        checked = DatabaseUrl.parse(url)
    except ValueError:
        return
    assert DatabaseUrl.parse(checked.dsn).dsn == checked.dsn


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=20))
def test_secret_shows_nothing(text: str) -> None:
    """A secret only equals one of the same text, and never shows it."""
    secret = Secret(text)
    assert secret == Secret(text)
    assert secret != Secret(text + "x")
    assert secret != text
    assert len({secret, Secret(text)}) == 1
    assert {repr(secret), str(secret), f"{secret}"} == {"Secret(***)", "***"}
