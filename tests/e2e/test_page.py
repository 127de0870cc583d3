"""The page for administrators in a real browser, from a real relayd."""

import json
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest
import trio

from relayd.api.page.pages import FOLLOWERS
from tests.support.chromium import Tab, open_tab
from tests.support.daemon import PATIENCE_S, Site, eventually, open_daemon

#: Names of files are chosen by those who upload.
HOSTILE = '"><img src=x onerror=document.title=1>.log'
#: Elements without what a screen reader would say of them, or ids that are used twice.
FAULTS = """
[...document.querySelectorAll('input:not([type=hidden]),button,a,svg')].filter(function(one){
  var label=one.labels&&one.labels.length?one.labels[0].textContent:'';
  return !(label||one.textContent||one.getAttribute('aria-label')||'').trim();
}).map(function(one){return one.outerHTML;}).concat(
  [...document.querySelectorAll('[id]')].map(function(one){return one.id;}).filter(
    function(id,place,all){return all.indexOf(id)!==place;}),
  document.querySelectorAll('h1').length===1?[]:['h1'],
  document.documentElement.lang?[]:['lang'])
"""
#: Cells in which words are broken because they are too narrow: six characters take more.
BROKEN = """
[...document.querySelectorAll('td,th,dd,li')].filter(function(one){
  return one.getClientRects().length&&one.textContent.trim().length>5&&one.clientWidth<30;
}).map(function(one){return one.outerHTML;})
"""
WIDE = "document.documentElement.scrollWidth>document.documentElement.clientWidth"


@pytest.mark.site(nodes=["node1"], database=False)
async def test_page_is_live_safe_and_for_everyone(site: Site, tmp_path: Path) -> None:
    """It updates itself within its policy, fits a telephone, and works by keyboard."""
    async with open_daemon(site) as daemon:
        site.upload(HOSTILE.replace("/", ""), b"x")
        await daemon.saw("bad_name")
        await trio.to_thread.run_sync(partial(_look, tmp_path, site))
        assert await daemon.stop() == 0  # the stream of a page does not delay a stop


def _look(directory: Path, site: Site) -> None:
    with open_tab(directory / "chromium") as tab:
        url = f"http://127.0.0.1:{site.port}/"
        tab.open(url)
        assert "Waiting for the database" in tab.run("document.querySelector('h1').textContent")
        assert tab.run(FAULTS) == []
        _check_keyboard(tab)
        for width in (360, 720, 1200):
            tab.resize(width)
            assert tab.run(WIDE) is False, width
            assert tab.run(BROKEN) == [], width
        dark = _background(tab, "dark")
        assert dark != _background(tab, "light")
        tab.run("document.querySelector('#failed a').focus()")
        site.send("node1", 1)
        site.upload(f"2{HOSTILE}", b"x")
        _await(tab, "figures", "oldest")
        _await(tab, "failed", "2 files")
        assert tab.run("document.activeElement.getAttribute('href')") == "failed/bad_name"
        assert tab.run("document.getElementById('age').textContent").startswith("Live")
        assert tab.run("document.title") == "Waiting \N{EN DASH} relayd on root.test"
        for path in ("nodes", "nodes/node1", "failed/bad_name", "nodes?q=NODE&failing=yes"):
            tab.open(url + path)
            assert tab.run(FAULTS) == [], path
            tab.resize(360)
            assert tab.run(WIDE) is False, path
            assert tab.run(BROKEN) == [], path
        tab.open(f"{url}failed/bad_name")
        assert HOSTILE in tab.run("document.querySelector('main').textContent")
        assert tab.run("document.images.length") == 0
        assert tab.complaints == []
        tab.open(f"{url}files/{'h' * 250}")
        assert tab.run(WIDE) is False
        _check_without_stream(tab, url, site)
        _check_with_silent_stream(tab, url, site)


def _await(tab: Tab, section: str, text: str) -> None:
    """Wait until a section of the live page has a text."""
    place = f"document.getElementById({json.dumps(section)}).textContent"
    check = f"if({place}.includes({json.dumps(text)}))done(1)"
    late = f"setTimeout(done,{PATIENCE_S * 1000},{place})"
    script = f"new Promise(function(done){{setInterval(function(){{{check}}},50);{late}}})"
    assert tab.run(script) == 1


def _check_without_stream(tab: Tab, url: str, site: Site) -> None:
    """A page that gets no stream, because enough others follow, is live all the same."""
    with ExitStack() as streams:
        tab.open("about:blank")
        for _ in range(FOLLOWERS):
            stream = streams.enter_context(urlopen(f"{url}events", timeout=20))
            assert stream.readline().startswith(b"event:")
        with pytest.raises(HTTPError, match="503") as refused, urlopen(f"{url}events", timeout=20):
            pass
        refused.value.close()
        tab.open(url)
        site.upload(f"3{HOSTILE}", b"x")
        _await(tab, "failed", "3 files")


def _check_with_silent_stream(tab: Tab, url: str, site: Site) -> None:
    """A page whose stream is held back on its way, or has ended unnoticed, asks again."""
    silent = "EventSource=function(){this.addEventListener=this.close=function(){}}"
    tab.call("Page.addScriptToEvaluateOnNewDocument", source=silent)
    tab.open(url)
    site.upload(f"4{HOSTILE}", b"x")
    _await(tab, "failed", "4 files")


def _check_keyboard(tab: Tab) -> None:
    tab.press("Tab")
    assert tab.run("document.activeElement.getAttribute('href')") == "#main"
    seen = []
    for _ in range(12):
        tab.press("Tab")
        seen.append(tab.run("document.activeElement.outerHTML"))
    assert any('type="search"' in one for one in seen), json.dumps(seen)


def _background(tab: Tab, scheme: str) -> str:
    tab.prefer(scheme)
    color: str = tab.run("getComputedStyle(document.body).backgroundColor")
    return color


@pytest.mark.site(nodes=["node1"], database=False)
async def test_page_is_served_under_its_own_names_only(site: Site) -> None:
    """Another site that resolves to this address gets nothing; HEAD works, POST does not."""
    async with open_daemon(site) as daemon:
        for host, status in (
            ("evil.example", 421),
            ("127.0.0.1.evil.example:3030", 421),
            ("", 421),
            ("localhost", 200),
            ("[::1]:3030", 200),
            ("root.test", 200),
        ):
            assert await _status(site, f"GET / HTTP/1.1\r\nHost: {host}\r\n") == status, host
        assert await _status(site, "HEAD /nodes HTTP/1.1\r\nHost: localhost\r\n") == 200
        assert await _status(site, "GET /nodes?silent=x HTTP/1.1\r\nHost: localhost\r\n") == 400
        assert await _status(site, "GET /failed/x HTTP/1.1\r\nHost: localhost\r\n") == 404
        assert await _status(site, "POST / HTTP/1.1\r\nHost: localhost\r\n") == 404
        assert (
            await _status(site, "GET /rudder/relay-api/1/system/info HTTP/1.1\r\nHost: x\r\n")
            == 200
        )
        await eventually(lambda: not daemon.lines_of("Traceback"))


async def _status(site: Site, head: str) -> int:
    stream = await trio.open_tcp_stream("127.0.0.1", site.port)
    async with stream:
        await stream.send_all(f"{head}Connection: close\r\n\r\n".encode())
        data = b""
        async for part in stream:
            data += part
    return int(data.split()[1])
