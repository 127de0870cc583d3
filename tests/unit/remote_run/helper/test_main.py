"""Validation of requests by the root helper."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayd.remote_run.helper.main import MAX_ARGUMENT, RefusedError, listed_hosts, read_request

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
)


def line(hosts: object, conditions: object = ()) -> bytes:
    """Return a request."""
    return json.dumps({"hosts": hosts, "conditions": conditions}).encode()


def test_request_is_read() -> None:
    """Hosts and conditions keep their order, each once."""
    request = line(["b.example", "a", "10.0.0.1", "fe80::1", "a"], ["x", "y_2"])
    assert read_request(request) == (["b.example", "a", "10.0.0.1", "fe80::1"], ["x", "y_2"])


@pytest.mark.fault("A13", "D.6.3")
@pytest.mark.parametrize(
    "name",
    [
        "",
        "-x",
        "--help",
        ".hidden",
        "a b",
        "a,b",
        "a;reboot",
        "$(reboot)",
        "`reboot`",
        "a|b",
        "a\nb",
        "a\n",
        "a\x00",
        "a/b",
        "../a",
        "ä.example",
        "²",
        "a" * 256,
        "\ud800",
    ],
)
def test_host_of_another_form_is_refused(name: str) -> None:
    """A host name begins with a letter or digit, and has no special character of a command."""
    with pytest.raises(RefusedError, match="invalid host"):
        read_request(line(["good.example", name]))


@pytest.mark.fault("A13", "D.6.3")
@pytest.mark.parametrize(
    "name", ["", "-D", "_a", "a-b", "a b", "a,b", "a\n", "a\x00", "a;b", "é", "x" * 1025, "a.b"]
)
def test_condition_of_another_form_is_refused(name: str) -> None:
    """A condition consists of letters, digits and underscores."""
    with pytest.raises(RefusedError, match="invalid condition"):
        read_request(line(["good.example"], ["good", name]))


@pytest.mark.fault("D.6.3")
@pytest.mark.parametrize(
    "request_line",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b"{",
        b'{"hosts": ["a"]}',
        b'{"hosts": ["a"], "conditions": [], "command": "/bin/sh"}',
        b'{"hosts": ["a"], "hosts": ["b"], "conditions": []}',
        b'{"hosts": "a", "conditions": []}',
        b'{"hosts": {"a": 1}, "conditions": []}',
        b'{"hosts": [1], "conditions": []}',
        b'{"hosts": [["a"]], "conditions": []}',
        b'{"hosts": [], "conditions": []}',
        b'{"hosts": ["a"], "conditions": null}',
        b'{"hosts": ["a"], "conditions": []} x',
        b"\xff\xfe",
        b"[" * 100_000,
        b"9" * 10_000,
    ],
)
def test_what_is_no_request_is_refused(request_line: bytes) -> None:
    """A request has exactly its two keys, with lists of strings."""
    with pytest.raises(RefusedError):
        read_request(request_line)


@pytest.mark.fault("D.6.3")
def test_too_many_names_are_refused() -> None:
    """Names that do not fit into one argument of a command are refused."""
    # Each of 9 characters and a comma, but for the last.
    fitting = [f"h{number:08}" for number in range(MAX_ARGUMENT // 10)]
    assert len(",".join([*fitting, ""])) == MAX_ARGUMENT
    assert read_request(line(fitting, fitting))[0] == fitting
    with pytest.raises(RefusedError, match="too many hosts"):
        read_request(line([*fitting, "more"]))
    with pytest.raises(RefusedError, match="too many conditions"):
        read_request(line(fitting, [*fitting, "more"]))


@pytest.mark.fault("D.6.3")
@given(st.binary(max_size=200) | JSON.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_are_a_request_or_refused(data: bytes) -> None:
    """Any input is either a valid request or raises RefusedError."""
    try:
        hosts, _ = read_request(data)
    except RefusedError:
        return
    assert hosts


@given(JSON, JSON)
def test_any_members_are_names_or_refused(hosts: object, conditions: object) -> None:
    """Accepted names are plain and cannot split or end an argument."""
    try:
        names = read_request(line(hosts, conditions))
    except RefusedError:
        return
    for name in [*names[0], *names[1]]:
        assert name[0].isalnum() or name[0] == "_"
        assert not set(name) & set(", \n\0;$/\\'\"")


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"a": 1}', '{"a": {}}', '{"a": {"hostname": []}}']
)
def test_broken_nodes_list_is_refused(tmp_path: Path, text: str) -> None:
    """Without a valid nodes list the request is refused."""
    path = tmp_path / "nodeslist.json"
    with pytest.raises(RefusedError):
        listed_hosts(path)
    path.write_text(text)
    with pytest.raises(RefusedError):
        listed_hosts(path)


@pytest.mark.fault("F6")
@pytest.mark.parametrize("odd", [1, None, [], {}, {"hostname": ["a"]}, {"hostname": None}])
def test_odd_entry_of_the_nodes_list_concerns_no_other(tmp_path: Path, odd: object) -> None:
    """The hosts of all other nodes stay known, also behind a byte order mark."""
    path = tmp_path / "nodeslist.json"
    path.write_text(json.dumps({"x": odd, "a": {"hostname": "a.test"}}), encoding="utf-8-sig")
    assert listed_hosts(path) == {"a.test"}
    path.write_text("{}")
    assert listed_hosts(path) == set()
