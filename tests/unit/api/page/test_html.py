"""The HTML of the page: what comes from files and nodes is text, whatever it contains."""

import math
import re
import shlex
from base64 import b64encode
from hashlib import sha256
from html import unescape
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayd.api.page.charts import chart
from relayd.api.page.hosts import allowed_hosts, host_of
from relayd.api.page.html import HEADERS, document, join, path_of, tag
from relayd.api.page.nodes import file_body, node_body, nodes_body, refused_body
from relayd.api.page.sections import sections
from relayd.api.page.style import STYLE
from relayd.config.main_conf import Listen
from relayd.overview.fleet import FilePlace, Refusals
from relayd.overview.model import FailedState, LoggedLine, Overview, Warned
from relayd.overview.nodes import NodeRow, NodesChoice, NodesPage
from relayd.overview.one_node import FileFacts, NodeDetail
from relayd.overview.sentence import judged
from relayd.telemetry.rates import Point


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


SCHEMES = re.findall(r":root\{(--bg.*?)\}", STYLE, re.DOTALL)


@pytest.mark.parametrize("scheme", SCHEMES, ids=["light", "dark", "print"])
@pytest.mark.parametrize("color", ["ink", "soft", "accent", "good", "warn", "bad"])
def test_every_color_of_text_can_be_read(scheme: str, color: str) -> None:
    """Text has the contrast of WCAG 2.2, level AA, on the page and on its cards."""
    colors = dict(re.findall(r"--(\w+):#(\w+)", scheme))
    for ground in ("bg", "card"):
        lights = sorted([_luminance(colors[color]), _luminance(colors[ground])])
        assert (lights[1] + 0.05) / (lights[0] + 0.05) >= 4.5, ground


def _luminance(color: str) -> float:
    digits = "".join(2 * digit for digit in color) if len(color) == 3 else color
    parts = [int(digits[place : place + 2], 16) / 255 for place in (0, 2, 4)]
    red, green, blue = (
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_a_chart_says_in_words_what_it_shows() -> None:
    """A screen reader has the time and the values; those of a period are rates a minute."""
    points = [
        Point(
            at=20.0 + 10 * number,
            arrived=number,
            done=0,
            refused=0,
            waiting=5,
            lag_median=math.nan,
            lag_p99=math.nan,
        )
        for number in range(7)
    ]
    overview = judged(Overview(at=0.0, version="1", role="root", node_id="root"))
    figures = sections(overview, points, "hour", None)["figures"]
    assert 'aria-label="Run logs in, last 1 min: from 0 to 36"' in figures
    assert 'aria-label="Waiting, last 1 min: from 5 to 5"' in figures
    assert "Lag, last" not in figures  # nothing is known of it


@pytest.mark.parametrize("name", ["a; reboot", "$(reboot).log", "it's"])
def test_a_command_with_a_name_is_safe_to_copy(name: str) -> None:
    """A shell takes the name, which others have chosen, as one word."""
    body = file_body(FilePlace(name=name, state="refused"), 0.0)
    (command,) = re.findall("<code>(.*?)</code>", body)
    assert shlex.split(unescape(command)) == ["relayd", "failed", "show", name]
    detail = NodeDetail(row=NodeRow(node_id="id", hostname=name), server="root", role="root")
    (command,) = re.findall("<code>(.*?)</code>", node_body(detail, 0.0))
    assert shlex.split(unescape(command)) == ["relayd", "node", name]


def test_a_search_stays_within_its_list() -> None:
    """A search among failing nodes finds failing nodes; the list is marked as that of the page."""
    page = NodesPage(rows=(), total=0, known=3, observed_s=0.0)
    body = nodes_body(page, NodesChoice(failing=True), "web", 0.0, counted_files=True)
    assert '<input type="hidden" name="failing" value="yes">' in body
    assert '<a href="nodes?failing=yes" aria-current="page">' in body
    assert "0 of 3 nodes with refused files" in body
