"""The HTML of the page: what comes from files and nodes is text, whatever it contains."""

import math
import re
from base64 import b64encode
from hashlib import sha256
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayd.api.page.charts import chart
from relayd.api.page.hosts import allowed_hosts, host_of
from relayd.api.page.html import HEADERS, document, join, path_of, tag
from relayd.api.page.nodes import file_body, refused_body
from relayd.api.page.sections import sections
from relayd.config.main_conf import Listen
from relayd.overview.fleet import FilePlace, Refusals
from relayd.overview.model import FailedState, LoggedLine, Overview, Warned
from relayd.overview.one_node import FileFacts
from relayd.overview.sentence import judged


class _Elements(HTMLParser):
    """Collects elements, and attributes that run something."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.names: list[str] = []
        self.active: list[str] = []
        self.feed(content)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note an element."""
        self.names.append(tag)
        self.active += [name for name, _ in attrs if name.startswith("on") or name == "style"]


@given(st.text(st.characters()))
def test_any_text_stays_text(hostile: str) -> None:
    """No name of a file, node or reason, and no line of the log, adds an element."""
    overview = judged(
        Overview(
            at=0.0,
            version=hostile,
            role="root",
            node_id=hostile,
            kinds=("reporting",),
            failed=FailedState(files=1, reasons={hostile: 1}),
            warned=Warned(
                count=1,
                last=(LoggedLine(at=0.0, level="error", component=hostile, text=hostile),),
            ),
        )
    )
    facts = FileFacts(name=hostile, at=0.0, reason=hostile, detail=hostile)
    place = FilePlace(name=hostile, state="refused", node_id=hostile, reason=hostile)
    parts = [
        *sections(overview, [], "hour", None).values(),
        refused_body(hostile, Refusals(files=(facts,), total=1), 0.0),
        file_body(place, 0.0),
        tag("a", hostile, href=path_of("x", hostile), title=hostile),
    ]
    found = _Elements("".join(parts))
    assert not {"script", "img", "iframe", "style", "object"} & {*found.names}
    assert found.active == []
    assert all(ord(char) >= 32 or char == "\n" for char in "".join(parts))


def test_policy_allows_this_style_and_script_only() -> None:
    """The hashes of the policy are those of the document, which loads nothing else."""
    content = document("title", "./", join("body"), live=True).decode()
    policy = HEADERS["Content-Security-Policy"]
    for kind in ("style", "script"):
        (inline,) = re.findall(rf"<{kind}>(.*?)</{kind}>", content, re.DOTALL)
        digest = b64encode(sha256(inline.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy
    assert "unsafe" not in policy
    assert not re.search(r"https?://|//[a-z]|src=|@import|url\(", content)


@pytest.mark.parametrize(
    "values", [[], [1.0], [0.0, 0.0], [math.nan] * 5, [1.0, math.nan, 3.0], [5.0] * 1000]
)
def test_any_values_make_a_chart(values: list[float]) -> None:
    """Gaps, zeros and many points are drawn; nothing that is no number gets into the path."""
    drawn = chart(values, "label")
    assert "nan" not in drawn.lower()
    assert len(drawn) < 6000


@pytest.mark.parametrize(
    ("header", "host"),
    [
        ("localhost:3030", "localhost"),
        ("[::1]:3030", "::1"),
        ("ROOT.example.", "root.example"),
        ("", ""),
    ],
)
def test_host_of_a_request(header: str, host: str) -> None:
    """Port, brackets and case do not matter."""
    assert host_of(header) == host


def test_hosts_are_those_of_this_server() -> None:
    """The address of the API and the names of this server are allowed, an empty one is not."""
    hosts = allowed_hosts(Listen(host="Relay.example", port=1), ["root.test", ""])
    assert {"relay.example", "root.test", "localhost", "127.0.0.1", "::1"} <= hosts
    assert "" not in hosts
