"""Moments: every spelling of --until, every way to misspell one, and the seq that each means."""

from __future__ import annotations

import datetime
import shlex
from bisect import bisect_right

import pytest
from hypothesis import given
from hypothesis import strategies as st

from journal.errors import UsageError
from replay.moment import NS, Ago, AtSeq, AtTag, AtTime, Now, parse, resolve

BERLIN_WINTER = datetime.timezone(datetime.timedelta(hours=1))


def ns(text: str) -> int:
    moment = parse(text)
    assert isinstance(moment, AtTime)
    return moment.ns


# -- spellings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("42", AtSeq(42)),
        ("seq:42", AtSeq(42)),
        ("0", AtSeq(0)),
        ("000000000000000000000000042", AtSeq(42)),
        ("now", Now()),
        ("NOW", Now()),
        ("tag:before the move", AtTag("before the move")),
        ("tag:tag:x", AtTag("tag:x")),
        ("tag:42", AtTag("42")),
        ("5 minutes ago", Ago(300 * NS)),
        ("1 second ago", Ago(NS)),
        ("  2   Hours  AGO ", Ago(7200 * NS)),
        ("1 day ago", Ago(86400 * NS)),
        ("0 seconds ago", Ago(0)),
        ("1970-01-01T00:00:00Z", AtTime(0)),
        ("1970-01-01T00:00:00.000000001Z", AtTime(1)),
        ("1970-01-01t01:00:00+01:00", AtTime(0)),
        ("1969-12-31 23:59:59.5z", AtTime(-NS // 2)),
        ("1970-01-01T00:00:00-00:00", AtTime(0)),
        ("1969-12-31T22:30:00-01:30", AtTime(0)),
    ],
)
def test_spellings(text, moment):
    assert parse(text) == moment


def test_nine_digits_are_exact():
    assert ns("2026-11-23T14:05:09.123456789Z") - ns("2026-11-23T14:05:09Z") == 123_456_789
    assert ns("2026-11-23T14:05:09.1Z") - ns("2026-11-23T14:05:09Z") == 100_000_000
    assert ns("2026-11-23T14:05:09.123456789+05:30") == ns("2026-11-23T08:35:09.123456789Z")


@given(st.datetimes(timezones=st.just(datetime.UTC)))
def test_agrees_with_the_standard_library(moment: datetime.datetime):
    text = moment.isoformat(timespec="microseconds").replace("+00:00", "Z")
    assert (
        ns(text)
        == (moment - datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)) // datetime.timedelta(microseconds=1) * 1000
    )


@pytest.mark.parametrize("text", ["2024-02-29T00:00:00Z", "0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59"])
def test_the_ends_of_the_calendar_are_times_too(text):
    assert isinstance(parse(text), AtTime)


# -- misspellings: one declared error each, that says what to write ---------------------------------------------------


def test_a_naive_time_is_refused_with_both_spellings_ready_to_paste():
    with pytest.raises(UsageError) as caught:
        parse("2026-11-23 14:05:09.25", BERLIN_WINTER)
    hint = caught.value.hint or ""
    assert hint == "write 2026-11-23T14:05:09.25Z (UTC) or 2026-11-23T14:05:09.25+01:00 (local)"
    utc, local = shlex.split(hint)[1], shlex.split(hint)[4]
    assert ns(utc) - ns(local) == 3600 * NS
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("text", ["2026-11-23", "2026-11-23T14:05", "2026-11-23 14:05", "0001-01-01", "9999-12-31"])
def test_what_a_hint_offers_can_be_pasted(text):
    """Scenario: a date, or a time without seconds. The machine's own zone, and years that its clock does not reach."""
    with pytest.raises(UsageError) as caught:
        parse(text)
    words = (caught.value.hint or "").split()
    assert [type(parse(word)) for word in words if word[0].isdigit()] == [AtTime, AtTime]


def test_a_time_with_a_zone_but_without_seconds_is_offered_back_complete():
    with pytest.raises(UsageError) as caught:
        parse("2026-11-23T14:05+02:00")
    assert caught.value.hint == "write 2026-11-23T14:05:00+02:00"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("2016-12-31T23:59:60Z", "leap second"),
        ("2026-11-23T14:05:60Z", "out of range"),
        ("2026-02-30T00:00:00Z", "day"),
        ("2026-13-01T00:00:00Z", "month"),
        ("0000-01-01T00:00:00Z", "year"),
        ("2026-11-23T24:00:00Z", "out of range"),
        ("2026-11-23T14:60:00Z", "out of range"),
        ("2026-11-23T14:05:09+24:00", "out of range"),
        ("2026-11-23T14:05:09.1234567890Z", "10 digits"),
        ("2026-11-23T14:05:09." + "1" * 60 + "Z", "60 digits"),
        ("2026-11-23T14:05:09.Z", "no moment"),
        ("9" * 60, "too large"),
        ("seq:" + "9" * 1000, "too large"),
        ("9" * 5000, "no moment"),
        ("9" * 60 + " days ago", "too large"),
        ("-1", "no moment"),
        ("+1", "no moment"),
        ("seq:", "no moment"),
        ("4.2", "no moment"),
        ("1_000", "no moment"),
        ("٤٢", "no moment"),
        ("٢٠٢٦-11-23T14:05:09Z", "no moment"),
        ("tag:", "needs a name"),
        ("", "no moment"),
        ("   ", "no moment"),
        ("yesterday", "no moment"),
        ("five minutes ago", "no moment"),
        ("5 months ago", "no moment"),
        ("-5 minutes ago", "no moment"),
        ("5 minutes", "no moment"),
        ("1.5 hours ago", "no moment"),
        ("tomorrow\n42", "no moment"),
    ],
)
def test_misspellings(text, says):
    with pytest.raises(UsageError, match=says) as caught:
        parse(text)
    assert caught.value.hint
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


@given(st.text() | st.from_regex(r"[0-9TZ:.+ -]{1,40}") | st.from_regex(r"(seq:|tag:)?[0-9]{1,80}( days ago)?"))
def test_any_text_is_a_moment_or_a_declared_error(text):
    try:
        moment = parse(text)
        seq = resolve(moment, last_seq=9, seq_at=lambda ns: max(0, min(ns, 9)), tags={"a": 3}, now_ns=5)
    except UsageError:
        return
    assert 0 <= seq <= 9


# -- placing ----------------------------------------------------------------------------------------------------------

TIMES = [10, 20, 20, 20, 30, 40]  # of seqs 1..6


def place(text_or_moment, *, exclusive=False, times=TIMES, tags=None, now_ns=1000):
    moment = parse(text_or_moment) if isinstance(text_or_moment, str) else text_or_moment
    return resolve(
        moment,
        last_seq=len(times),
        seq_at=lambda ns: bisect_right(times, ns),
        tags=tags or {},
        now_ns=now_ns,
        exclusive=exclusive,
    )


@pytest.mark.parametrize(
    ("ns", "inclusive", "exclusive"),
    [(9, 0, 0), (10, 1, 0), (11, 1, 1), (20, 4, 1), (21, 4, 4), (39, 5, 5), (40, 6, 5), (41, 6, 6), (10**40, 6, 6)],
)
def test_a_time_means_the_last_event_at_it_and_exclusive_the_last_before_it(ns, inclusive, exclusive):
    assert place(AtTime(ns)) == inclusive
    assert place(AtTime(ns), exclusive=True) == exclusive


@given(st.lists(st.integers(0, 50)).map(sorted), st.integers(-5, 55), st.booleans())
def test_a_time_is_placed_as_counting_would_place_it(times, ns, exclusive):
    expected = sum(time < ns if exclusive else time <= ns for time in times)
    assert place(AtTime(ns), exclusive=exclusive, times=times) == expected


def test_a_time_asks_the_log_once_and_the_rest_never():
    """Scenario: placing a time in a long journal means reading it, so nothing is asked twice or for nothing."""
    asked = []

    def seq_at(ns: int) -> int:
        asked.append(ns)
        return 777

    assert resolve(AtTime(9_000), last_seq=1000, seq_at=seq_at, tags={}, now_ns=0, exclusive=True) == 777
    assert asked == [8_999]
    for moment in (Now(), AtSeq(3), AtTag("a")):
        resolve(moment, last_seq=1000, seq_at=seq_at, tags={"a": 3}, now_ns=0)
    assert asked == [8_999]


def test_ago_counts_from_now():
    assert place("1 second ago", now_ns=NS + 20) == 4
    assert place("1 second ago", now_ns=NS + 20, exclusive=True) == 1
    assert place("9 days ago", now_ns=5) == 0


def test_now_is_the_end_even_when_the_clock_was_set_back():
    """Scenario: recorded times never decrease, so after a clock set back they lie in the future for a while."""
    assert place("now", now_ns=15) == 6


def test_an_empty_journal_has_only_seq_0():
    for text in ("0", "now", "2026-11-23T14:05:09Z", "1 day ago"):
        assert place(text, times=[]) == 0
    with pytest.raises(UsageError, match="beyond the end, 0"):
        place("1", times=[])


def test_seqs():
    assert place("0") == 0
    assert place("6") == 6
    assert place("6", exclusive=True) == 5
    assert place("0", exclusive=True) == 0


def test_a_seq_beyond_the_end_is_a_usage_error():
    with pytest.raises(UsageError, match="seq 7 is beyond the end, 6") as caught:
        place("7")
    assert (caught.value.exit_code, caught.value.seq) == (2, 7)


def test_tags():
    assert place("tag:stable", tags={"stable": 4}) == 4
    assert place("tag:stable", tags={"stable": 4}, exclusive=True) == 3


def test_a_tag_past_the_end_is_a_usage_error():
    """Scenario: the tag's record survived in a manifest, the events that it names did not."""
    with pytest.raises(UsageError, match="beyond the end"):
        place("tag:lost", tags={"lost": 99})


def test_an_unknown_tag_names_near_ones():
    tags = {"release-1": 1, "release-2": 2, "stable": 3}
    with pytest.raises(UsageError, match="no tag 'relase-2'") as caught:
        place("tag:relase-2", tags=tags)
    assert caught.value.hint == "did you mean tag:release-2 or tag:release-1?"
    with pytest.raises(UsageError) as caught:
        place("tag:qqq", tags=tags)
    assert caught.value.hint == "the newest tags are tag:stable, tag:release-2, tag:release-1"
    with pytest.raises(UsageError) as caught:
        place("tag:qqq", tags={})
    assert "no tags" in (caught.value.hint or "")
