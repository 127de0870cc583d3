"""The state in one sentence, which answers "is it well?", and the next command."""

from datetime import datetime
from typing import Final, NamedTuple

import msgspec

from relayd.overview.model import Overview, State, named
from relayd.system.amounts import age, counted, precise
from relayd.system.clock import in_calendar

#: Files that wait no longer than this are being processed; the writer gathers for a while.
PROMPT_S: Final = 10.0
#: Silence is unusual after this time, and after this many of the usual intervals.
SILENT_S: Final = 120.0
SILENT_INTERVALS: Final = 10.0

_DAY_S: Final = 86_400.0


class Verdict(NamedTuple):
    """A state in words.

    Attributes:
        state: one of six.
        sentence: the same in words.
        advice: the next command, or "".
    """

    state: State
    sentence: str
    advice: str = ""


def judged(overview: Overview) -> Overview:
    """Return an overview of a running relayd with its state, in words.

    While files wait for something, how fast they went before says nothing about their end.
    """
    verdict, backlog = judge(overview), overview.backlog
    if verdict.state in {"waiting", "paused"}:
        backlog = msgspec.structs.replace(backlog, drained_per_s=None, drained_in_s=None)
    return msgspec.structs.replace(
        overview,
        state=verdict.state,
        sentence=verdict.sentence,
        advice=verdict.advice,
        backlog=backlog,
    )


def awaited(overview: Overview) -> str | None:
    """Return what files wait for before any can be stored or forwarded; None if they do not."""
    if overview.nodes.trouble is not None:
        return "nodes list"
    return next((output.name for output in overview.outputs if output.up is False), None)


def judge(overview: Overview) -> Verdict:
    """Return the state of a running relayd; the first that applies of those that need someone."""
    return (
        _paused(overview)
        or _waiting(overview)
        or _behind(overview)
        or _silent(overview)
        or _keeping_up(overview)
    )


def _paused(overview: Overview) -> Verdict | None:
    pause = overview.pause
    if pause is None:
        return None
    kinds = tuple(kind for kind in overview.kinds if kind in pause.kinds)
    if not kinds:  # what is paused would not be processed anyway
        return None
    what = "Paused" if kinds == overview.kinds else f"Processing of {named(kinds)} paused"
    until = f", until {moment(pause.until, overview.at)}" if pause.until is not None else ""
    since = moment(pause.since, overview.at)
    sentence = f"{what} by {pause.by} since {since}{until}: {_wait(overview)}."
    return Verdict("paused", sentence, "relayd resume")


def _waiting(overview: Overview) -> Verdict | None:
    if overview.nodes.trouble is not None:
        return Verdict(
            "waiting",
            f"Waiting for the nodes list ({overview.nodes.trouble}): {_wait(overview)}.",
            "relayd check",
        )
    for output in overview.outputs:
        if output.up is False:
            since = f" since {moment(output.since, overview.at)}" if output.since else ""
            server = f" {output.server}" if output.server else ""
            sentence = (
                f"Waiting for the {output.name}{since} ({output.trouble or server.strip()}): "
                f"{_wait(overview)}{', none is lost' if overview.backlog.files else ''}."
            )
            return Verdict("waiting", sentence, "relayd check")
    return None


def _behind(overview: Overview) -> Verdict | None:
    backlog = overview.backlog
    if not backlog.files or backlog.oldest_s is None or backlog.oldest_s <= PROMPT_S:
        return None
    sentence = f"Behind: {_wait(overview)}, the oldest for {age(backlog.oldest_s)}"
    if backlog.grows:
        sentence += ", and there are more and more"
    elif backlog.drained_in_s is not None and backlog.drained_per_s:
        rate = f"{backlog.drained_per_s:,.0f}" if backlog.drained_per_s >= 1 else "less than 1"
        sentence += f"; at {rate}/s done in {precise(backlog.drained_in_s)}"
    return Verdict("behind", f"{sentence}.", "relayd queue shape")


def _silent(overview: Overview) -> Verdict | None:
    flow = overview.flow
    if flow is None or flow.last_arrival is None or not flow.usual:
        return None
    quiet = overview.at - flow.last_arrival
    if quiet <= max(SILENT_S, SILENT_INTERVALS * 60.0 / flow.usual):
        return None
    usual = f"{flow.usual:,.0f}" if flow.usual >= 1 else f"{flow.usual:.1f}"
    return Verdict(
        "silent",
        f"No run log has arrived for {age(quiet)} (usually {usual} a minute): "
        "look at the web server in front.",
        "relayd nodes --silent 15min",
    )


def _keeping_up(overview: Overview) -> Verdict:
    done = "stored" if overview.role == "root" else "forwarded"
    if "reporting" not in overview.kinds:
        return Verdict("keeping_up", f"Keeping up: {_wait(overview)}.")
    lag = overview.lag
    if lag is None or lag.here is None:
        return Verdict("keeping_up", f"Keeping up: no run log has been {done} yet.")
    sentence = f"Keeping up: run logs are {done} {precise(lag.here)} after they arrive."
    return Verdict("keeping_up", sentence)


def held_words(overview: Overview) -> str:
    """Return what operators have put on hold, in words."""
    nodes = counted(overview.nodes_on_hold, "node") if overview.nodes_on_hold else ""
    return hold_words(overview.held, nodes and f"all that arrives of {nodes}")


def hold_words(files: int, arriving: str) -> str:
    """Return what is on hold, in words; `arriving` says what is put there as it arrives."""
    if not arriving:
        return counted(files, "file")
    return f"{counted(files, 'file')}, and {arriving}" if files else f"{arriving}; no file yet"


def _wait(overview: Overview) -> str:
    files = overview.backlog.files
    what = "run log" if overview.kinds == ("reporting",) else "file"
    return (
        f"{counted(files, what)} {'waits' if files == 1 else 'wait'}" if files else "nothing waits"
    )


def moment(at: float, now: float) -> str:
    """Return a time of the day, local; with the date if it is more than half a day away.

    Args:
        at: Unix time.
        now: the present.
    """
    local = datetime.fromtimestamp(in_calendar(at)).astimezone()
    away = abs(now - at) > _DAY_S / 2
    return f"{local:%Y-%m-%d %H:%M}" if away else f"{local:%H:%M:%S}"
