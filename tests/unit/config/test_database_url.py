"""PostgreSQL URLs: options that are kept or unused, and hidden passwords."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayd.config.database_options import OptionError
from relayd.config.database_url import DatabaseUrl, connect_arguments, split_password
from relayd.config.secret import Secret
from relayd.config.toml import UnexpectedError


@pytest.mark.parametrize(
    ("url", "options"),
    [
        ("postgres://rudder@127.0.0.1/rudder", "user=rudder host=127.0.0.1 dbname=rudder"),
        ("postgresql://a@db.example.com:5433/d", "user=a host=db.example.com port=5433 dbname=d"),
        ("postgres://a@h1,h2:5433/d", "user=a host=h1,h2 port=,5433 dbname=d"),
        ("postgres://a@[::1]:5434/d", "user=a host=::1 port=5434 dbname=d"),
        ("postgres://a@h1,[::1]:1,h2/d", "user=a host=h1,::1,h2 port=,1, dbname=d"),
        ("postgres://a@h?sslmode=verify-full", "user=a host=h sslmode=verify-full"),
        ("postgres://a@h?options=-c%20a%3D5", "user=a host=h options=-c a=5"),
        ("postgres:///d?host=/run/postgresql", "dbname=d host=/run/postgresql"),
        ("postgres://%2Frun%2Fpostgresql/d", "host=/run/postgresql dbname=d"),
        ("postgres://a%40b@h/d%2Fe/f", "user=a@b host=h dbname=d/e/f"),
        ("postgres://a:p?q#r@h/d", "user=a host=h dbname=d"),
        ("postgres://a@h/d?user=b&user=c@d", "user=c@d host=h dbname=d"),
        ("postgres://a@h?user=c@d", "user=c@d host=h"),
        ("postgres://a@h/d?application_name=a+b", "user=a host=h dbname=d application_name=a+b"),
        ("postgres://h/d?ssl=true", "host=h dbname=d sslmode=require"),
        ("postgres://", ""),
    ],
)
@pytest.mark.history(32)
@pytest.mark.fault("F8")
def test_url_is_read_as_libpq_does(url: str, options: str) -> None:
    """A URL sets libpq's options, whatever other drivers would make of it."""
    arguments = connect_arguments(url, Secret("p@/?#"))
    assert arguments.pop("password") == "p@/?#"
    assert " ".join(f"{name}={value}" for name, value in arguments.items()) == options


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
        "postgres://a:p/x?q=1@h/d",
        "postgres://a@h/d?sslmode=require&&user=b",
        "postgres://a@h/d?ssl=false",
        "postgres://a@h/d%zz",
        "postgres://a@h/%FF",
        "postgres://a@h/d\0",
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
        ("postgres://a:p%40@h/d", "postgres://a@h/d", "p@"),
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


def test_options_without_an_effect_are_named() -> None:
    """What relayd decides itself is listed as unused."""
    url = "postgres://a@h/d?client_encoding=latin1&keepalives=1&krbsrvname=x"
    assert DatabaseUrl.parse(url).unused == ("client_encoding", "krbsrvname")


@pytest.mark.fault("F8")
@pytest.mark.parametrize(
    ("option", "says"),
    [
        (
            "currentSchema=x",
            (
                "expected currentSchema to be one of libpq's options, got one of JDBC's, "
                "did you mean options=-csearch_path%3DSCHEMA?"
            ),
        ),
        (
            "socketTimeout=3",
            (
                "expected socketTimeout to be one of libpq's options, got one of JDBC's, "
                "did you mean tcp_user_timeout?"
            ),
        ),
        ("reWriteBatchedInserts=true", "expected reWriteBatchedInserts to be one of libpq's opti"),
        ("ssl=false", "expected ssl to be one of libpq's options, got one of JDBC's, did you mean"),
        (
            "conect-timeout=3",
            (
                "expected conect-timeout to be one of libpq's options, got an unknown one, did you "
                "mean connect_timeout?"
            ),
        ),
        (
            "sslmode=required",
            (
                "expected sslmode to be disable, allow, prefer, require, verify-ca or "
                'verify-full, got "required", did you mean require?'
            ),
        ),
        ("hostaddr=a%20b", 'expected hostaddr to be a host name or an IP address, got "a b"'),
        ("statement_timeout=5", "expected statement_timeout to be one of libpq's"),
        ("sslmode=on", "expected sslmode to be disable, allow, prefer, require, verify-ca or ver"),
        ("connect_timeout=soon", 'expected connect_timeout to be an integer, got "soon"'),
        ("gssencmode=require", "expected gssencmode to be disable or prefer"),
        ("port=1,2", "expected port to be as many values as host (1), got 2"),
        ("sslrootcert=system&sslmode=require", "expected sslmode to be verify-full"),
        ("CANARY=1@h", "expected an option to be one of libpq's"),
    ],
)
def test_the_option_at_fault_is_named(option: str, says: str) -> None:
    """An error names the option and what it accepts, and shows no part of a password."""
    with pytest.raises(OptionError) as caught:
        DatabaseUrl.parse(f"postgres://a@h/d?{option}")
    assert str(caught.value).startswith(says)


@pytest.mark.fault("F38")
@pytest.mark.parametrize(
    ("url", "got"),
    [
        ("http://u@h/d", "one with another scheme"),
        ("jdbc:postgresql://h/d", 'a URL of JDBC, which is written without "jdbc:" here'),
        ("postgresql+psycopg2://u@h/d", "a URL of SQLAlchemy"),
        ("Postgres://u@h/d", "one with its scheme in upper case"),
        ("postgres:/h/d", 'one without "://" after the scheme'),
        ("u:CANARY@h/d", 'one without "postgres://" in front'),
        ("host=h password=CANARY", "libpq's keywords and values, which are no URL"),
        ("", "an empty string"),
        (" postgres://u@h/d", "one with white space in front"),
        ("postgres://u:CANARY/x@h/d", "an @ after it: write / as %2F"),
        ("postgres://u:CANARY%@h/d", "a % without two hexadecimal digits"),
        ("postgres://u@h/d%zz", "a % without two hexadecimal digits"),
        ("postgres://u@h/d%FF", "other bytes"),
        ("postgres://u@h/d?sslmode=allow&CANARY", "option 2 without a value"),
        ("postgres://u@h/d?sslmode", "sslmode without a value"),
        ("postgres://u@h/d?=CANARY", "option 1 without a name"),
        ("postgres://u@h/d?options=-ca=5", "two in options: write = in a value as %3D"),
        ("postgres://u@::1/d", "an IPv6 address without brackets"),
        ("postgres://u@a..b/d", '"a..b"'),
        ("postgres://u@h,${HOST}/d", '"${HOST}"'),
        ("postgres://CANARY!/d", "something else"),
        ("postgres://u:CANARY!?x=1/y@h/d", "something else"),
    ],
)
def test_the_part_at_fault_is_named(url: str, got: str) -> None:
    """The error for each part of a URL says what is wrong, and shows no part of a password."""
    with pytest.raises(UnexpectedError) as caught:
        DatabaseUrl.parse(url)
    assert (caught.value.got or "").startswith(got)
    assert caught.value.expected
    assert "CANARY" not in str(caught.value)


@given(st.text(max_size=60) | st.text("ab@:/?#[]%&=,1 ", max_size=30))
def test_any_text_is_accepted_or_refused(text: str) -> None:
    """A URL either raises ValueError or can be given to the driver."""
    try:
        checked = DatabaseUrl.parse(f"postgres://{text}")
    except ValueError:
        return
    assert "password" not in checked.options
    assert checked.place


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=20))
def test_secret_shows_nothing(text: str) -> None:
    """A secret only equals one of the same text, and never shows it."""
    secret = Secret(text)
    assert secret == Secret(text)
    assert secret != Secret(text + "x")
    assert secret != text
    assert len({secret, Secret(text)}) == 1
    assert {repr(secret), str(secret), f"{secret}"} == {"Secret(***)", "***"}
