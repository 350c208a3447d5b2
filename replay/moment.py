"""A moment in a journal's history: how users spell it, and which seq it is.

Pure. Knows the spellings of ``--until`` and the rule that turns a time into a seq; must not know how times are read
from a log (it is given a function) or what is done at the moment found.

    2026-11-23T14:05:09.123456789Z      a time, with a zone; up to nine digits, exact
    42   seq:42                         a seq; 0 is the empty state
    tag:NAME                            where a tag points
    now                                 the end
    "5 minutes ago"                     N seconds, minutes, hours or days

`parse` is the grammar and needs no journal; `resolve` places its result in one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date, datetime, tzinfo
from typing import Final

from journal.errors import UsageError

NS: Final = 1_000_000_000
SPELLINGS: Final = '2026-11-23T14:05:09Z, 42, seq:42, tag:NAME, now or "5 minutes ago"'

_UNITS: Final = {"second": NS, "minute": 60 * NS, "hour": 3600 * NS, "day": 86_400 * NS}
_SEQ = re.compile(r"(?:seq:)?([0-9]+)")
_AGO = re.compile(r"([0-9]+)\s+(second|minute|hour|day)s?\s+ago", re.IGNORECASE)
_TIME = re.compile(
    r"(?P<year>[0-9]{4})-(?P<month>[0-9]{2})-(?P<day>[0-9]{2})"
    r"(?:[Tt ](?P<hour>[0-9]{2}):(?P<minute>[0-9]{2})(?::(?P<second>[0-9]{2})(?:\.(?P<fraction>[0-9]+))?)?)?"
    r"\s?(?P<zone>[Zz]|[+-][0-9]{2}:[0-9]{2})?"
)
_TEXT_MAX = 1024  # a tag's name is at most 512 bytes
_DIGITS_MAX = 18  # of a seq or a count: any more is beyond 64 bits, and int() refuses thousands of digits


@dataclass(frozen=True, slots=True)
class AtSeq:
    seq: int


@dataclass(frozen=True, slots=True)
class AtTime:
    """UTC nanoseconds since 1970; any year from 1 to 9999, so it may lie outside 64 bits."""

    ns: int


@dataclass(frozen=True, slots=True)
class AtTag:
    name: str


@dataclass(frozen=True, slots=True)
class Ago:
    ns: int


@dataclass(frozen=True, slots=True)
class Now:
    """The end of the journal, whatever the clock says."""


Moment = AtSeq | AtTime | AtTag | Ago | Now


# -- parsing ----------------------------------------------------------------------------------------------------------


def parse(text: str, zone: tzinfo | None = None) -> Moment:
    """The moment that a user spelt. Raises UsageError for anything else, with what to write instead.

    ``zone`` is the local zone that a naive time's hint offers; the machine's by default. It never changes a result.
    """
    spelt = text.strip()
    if not spelt or len(spelt) > _TEXT_MAX:
        raise _unknown(spelt)
    if spelt.lower() == "now":
        return Now()
    if spelt.startswith("tag:"):
        if spelt == "tag:":
            raise UsageError("tag: needs a name", hint="write tag:NAME")
        return AtTag(spelt[4:])
    if match := _SEQ.fullmatch(spelt):
        return AtSeq(_number(match[1], "seq"))
    if match := _AGO.fullmatch(spelt):
        return Ago(_number(match[1], "count") * _UNITS[match[2].lower()])
    if match := _TIME.fullmatch(spelt):
        return _time(spelt, match, zone)
    raise _unknown(spelt)


def _unknown(spelt: str) -> UsageError:
    return UsageError(f"{_shown(spelt)} is no moment", hint=f"write {SPELLINGS}")


def _shown(spelt: str) -> str:
    return repr(spelt if len(spelt) <= 80 else spelt[:77] + "...")


def _number(digits: str, what: str) -> int:
    significant = digits.lstrip("0")
    if len(significant) > _DIGITS_MAX:
        raise UsageError(f"{what} {_shown(digits)} is too large", hint="a seq and a count have at most 18 digits")
    return int(significant or "0")


def _time(spelt: str, match: re.Match[str], zone: tzinfo | None) -> AtTime:
    part = match.groupdict()
    hour, minute, second = (int(part[name] or "0") for name in ("hour", "minute", "second"))
    fraction = part["fraction"] or ""
    try:
        day = date(int(part["year"]), int(part["month"]), int(part["day"]))
    except ValueError as error:
        raise UsageError(f"time {_shown(spelt)}: {error}", hint=f"write {SPELLINGS}") from error
    if second == 60 and minute == 59:
        raise UsageError(
            f"time {_shown(spelt)} is a leap second, which UTC nanoseconds do not count",
            hint="write second 59, or 00 of the next minute",
        )
    if hour > 23 or minute > 59 or second > 59:
        raise UsageError(f"time {_shown(spelt)}: hour, minute or second is out of range", hint=f"write {SPELLINGS}")
    if len(fraction) > 9:
        raise UsageError(
            f"time {_shown(spelt)} has {len(fraction)} digits of a second; nine are exact",
            hint="cut it to nine digits",
        )
    if part["zone"] is None or part["second"] is None:
        full = f"{day.isoformat()}T{hour:02}:{minute:02}:{second:02}" + (f".{fraction}" if fraction else "")
        raise _incomplete(spelt, full, part["zone"], zone)
    seconds = (day.toordinal() - _EPOCH_DAY) * 86_400 + hour * 3600 + minute * 60 + second
    return AtTime((seconds - _offset_seconds(part["zone"], spelt)) * NS + int(fraction.ljust(9, "0")))


_EPOCH_DAY = date(1970, 1, 1).toordinal()


def _offset_seconds(zone: str, spelt: str) -> int:
    if zone in "Zz":
        return 0
    hours, minutes = int(zone[1:3]), int(zone[4:6])
    if hours > 23 or minutes > 59:
        raise UsageError(f"time {_shown(spelt)}: offset {zone} is out of range", hint=f"write {SPELLINGS}")
    return (hours * 3600 + minutes * 60) * (-1 if zone[0] == "-" else 1)


def _incomplete(spelt: str, full: str, written_zone: str | None, zone: tzinfo | None) -> UsageError:
    """A time without a zone or seconds means different seqs to different people: offered back, complete."""
    if written_zone is not None:
        return UsageError(f"time {_shown(spelt)} is not complete", hint=f"write {full}{written_zone.upper()}")
    return UsageError(
        f"time {_shown(spelt)} has no zone",
        hint=f"write {full}Z (UTC) or {full}{_local_offset(full, zone)} (local)",
    )


def _local_offset(full: str, zone: tzinfo | None) -> str:
    try:
        naive = datetime.fromisoformat(full[:19])
        local = naive.replace(tzinfo=zone) if zone is not None else naive.astimezone()
        text = local.strftime("%z")[:5]
    except (OverflowError, ValueError, OSError):  # the platform's clock does not reach that year
        text = ""
    return f"{text[:3]}:{text[3:]}" if text else "+00:00"


# -- placing ----------------------------------------------------------------------------------------------------------


def resolve(
    moment: Moment,
    *,
    last_seq: int,
    seq_at: Callable[[int], int],
    tags: Mapping[str, int],
    now_ns: int,
    exclusive: bool = False,
) -> int:
    """The greatest seq that is not after the moment; with ``exclusive``, the greatest that is before it.

    ``seq_at(ns)`` is the greatest seq whose time is not after ``ns``, 0 if there is none: a time after the end means
    the end. It is asked at most once. Raises UsageError for a seq beyond the end and for a tag that is not there. The
    first seq at or after a time is ``resolve(..., exclusive=True) + 1``.
    """
    match moment:
        case Now():
            return last_seq
        case Ago(ns):
            return seq_at(now_ns - ns - exclusive)
        case AtTime(ns):
            return seq_at(ns - exclusive)  # times are whole nanoseconds: before ns is not after ns - 1
        case AtSeq(seq):
            return _within(seq, last_seq, f"seq {seq}", exclusive)
        case AtTag(name):
            if name not in tags:
                raise UsageError(f"there is no tag {_shown(name)}", hint=_near_tags(name, tags))
            return _within(tags[name], last_seq, f"tag {_shown(name)} at seq {tags[name]}", exclusive)


def _within(seq: int, last_seq: int, what: str, exclusive: bool) -> int:
    if seq > last_seq:
        raise UsageError(f"{what} is beyond the end, {last_seq}", seq=seq, hint=f"write a seq from 0 to {last_seq}")
    return max(0, seq - exclusive)


def _near_tags(name: str, tags: Mapping[str, int]) -> str:
    from difflib import get_close_matches  # for whoever made a mistake

    near = get_close_matches(name, tags, n=3, cutoff=0.5)
    if near:
        return "did you mean " + " or ".join(f"tag:{other}" for other in near) + "?"
    if not tags:
        return "this journal has no tags; `journal tag NAME` makes one"
    newest = sorted(tags, key=lambda other: tags[other], reverse=True)[:5]
    return "the newest tags are " + ", ".join(f"tag:{other}" for other in newest)
