"""The protocol of files by which processes share items: whatever the order, one holder for each attempt."""

import errno
import os
import pathlib
import tempfile
import threading
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.run.claims import CLAIMED, DONE, FAILED, PENDING, STALE, Claims, State
from jaxalign.data.atomic import create_once

ITEMS = [f"item{k}" for k in range(12)]


def race(threads, act) -> list[Any]:
    """Starts all at one moment and gives what each returned."""
    found: list[Any] = [None] * threads
    barrier = threading.Barrier(threads)

    def run(number):
        barrier.wait()
        found[number] = act(number)

    started = [threading.Thread(target=run, args=(number,)) for number in range(threads)]
    for thread in started:
        thread.start()
    for thread in started:
        thread.join()
    return found


def take(claims, item, state):
    claim = claims.take(item, state)
    assert claim is not None
    return claim


def kinds(claims, items=ITEMS):
    return [state.kind for state in claims.states(items).values()]


def test_of_racing_threads_each_item_has_one_holder(tmp_path):
    claims = Claims(tmp_path, 60)

    def take_all(_):
        states = claims.states(ITEMS)
        free = [item for item in ITEMS if states[item].kind == PENDING]
        return [claim for item in free if (claim := claims.take(item, states[item]))]

    taken = [claim.item for part in race(8, take_all) for claim in part]
    assert sorted(taken) == sorted(ITEMS)
    assert kinds(claims) == [CLAIMED] * len(ITEMS)


def test_of_racing_threads_one_takes_over_a_stale_claim(tmp_path):
    claims = Claims(tmp_path, 60)
    dead = take(claims, "item0", State(PENDING))
    long_ago = time.time() - 61
    os.utime(dead.path, (long_ago, long_ago))
    (state,) = claims.states(["item0"]).values()
    assert state == State(STALE, 1)
    taken = [claim for claim in race(8, lambda _: claims.take("item0", state)) if claim]
    assert [claim.attempt for claim in taken] == [2]
    assert claims.states(["item0"]) == {"item0": State(CLAIMED, 2)}
    dead.touch()  # it was only asleep: its claim is over all the same
    assert claims.states(["item0"]) == {"item0": State(CLAIMED, 2)}


def test_who_decides_by_an_old_listing_loses(tmp_path):
    claims = Claims(tmp_path, 60)
    old = claims.states(ITEMS)
    claim = take(claims, "item0", old["item0"])
    assert claims.take("item0", old["item0"]) is None
    claim.release()
    stale = claims.states(ITEMS)["item0"]
    assert claims.finish(claim, {})
    assert claims.take("item0", stale) is None  # done meanwhile
    assert claims.states(["item0"])["item0"].kind == DONE


def test_a_claim_given_back_is_free_at_once(tmp_path):
    claims = Claims(tmp_path, 3600)
    take(claims, "item0", State(PENDING)).release()
    (state,) = claims.states(["item0"]).values()
    assert state == State(STALE, 1)
    assert take(claims, "item0", state).attempt == 2


def test_a_heartbeat_keeps_a_claim(tmp_path):
    claims = Claims(tmp_path, 0.5)
    claim = take(claims, "item0", State(PENDING))
    with claim.heartbeat(0.05):
        time.sleep(0.9)
        assert kinds(claims, ["item0"]) == [CLAIMED]
    time.sleep(0.7)
    assert kinds(claims, ["item0"]) == [STALE]


def test_the_first_record_of_an_item_stays(tmp_path):
    claims = Claims(tmp_path, 60)
    slow = take(claims, "item0", State(PENDING))
    quick = take(claims, "item0", State(STALE, 1))
    assert claims.finish(quick, {"results": "quick"})
    assert not claims.finish(slow, {"results": "slow"})
    claims.fail(slow, {"reason": "late"})
    assert claims.done("item0")["results"] == "quick"
    assert claims.states(["item0"])["item0"].kind == DONE


def test_a_failure_belongs_to_its_attempt(tmp_path):
    claims = Claims(tmp_path, 60)
    claims.fail(take(claims, "item0", State(PENDING)), {"reason": "too few people"})
    (failed,) = claims.states(["item0"]).values()
    assert failed == State(FAILED, 1)
    assert claims.failure("item0", failed) == "too few people"
    taken = [claim for claim in race(4, lambda _: claims.take("item0", failed)) if claim]
    assert len(taken) == 1
    assert kinds(claims, ["item0"]) == [CLAIMED]


EVENTS = st.lists(
    st.tuples(st.sampled_from(["look", "take", "finish", "fail", "die"]), st.integers(0, 2)), max_size=40
)


@settings(max_examples=60, deadline=None)
@given(EVENTS)
def test_in_any_order_of_events_an_item_is_done_once(events):
    """Three processes that look, take by what they saw then, finish, fail, or die without a word."""
    with tempfile.TemporaryDirectory() as name:
        claims = Claims(pathlib.Path(name), 60)
        seen = [State(PENDING)] * 3
        held: list[Any] = [None] * 3
        attempts, done = [], 0
        for what, who in events:
            if what == "look":
                seen[who] = claims.states(["item"])["item"]
            elif what == "take" and held[who] is None and seen[who].kind in (PENDING, STALE, FAILED):
                held[who] = claims.take("item", seen[who])
                attempts += [held[who].attempt] if held[who] else []
            elif held[who] is not None and what != "take":
                claim, held[who] = held[who], None
                if what == "finish":
                    done += claims.finish(claim, {"results": claim.attempt})
                elif what == "fail":
                    claims.fail(claim, {"reason": "no"})
                else:
                    claim.release()
            assert len(set(attempts)) == len(attempts)
            assert done <= 1
        assert (claims.states(["item"])["item"].kind == DONE) == (done == 1)


def test_a_file_is_created_once_by_racing_threads(tmp_path):
    made = race(8, lambda number: create_once(tmp_path / "file", b"%d" % number))
    assert sum(made) == 1
    assert (tmp_path / "file").read_bytes() == b"%d" % made.index(True)
    assert os.listdir(tmp_path) == ["file"]


def test_a_file_is_created_once_where_there_are_no_hard_links(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EPERM, "no hard links here")

    monkeypatch.setattr(os, "link", refuse)
    made = race(8, lambda number: create_once(tmp_path / "file", b"content"))
    assert sum(made) == 1
    assert (tmp_path / "file").read_bytes() == b"content"
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("answer", [FileExistsError(), OSError(errno.EIO, "lost")])
def test_a_link_whose_answer_is_lost_counts(answer, tmp_path, monkeypatch):
    link = os.link

    def lose(*names):
        link(*names)
        raise answer

    monkeypatch.setattr(os, "link", lose)
    assert create_once(tmp_path / "file", b"content")
    monkeypatch.setattr(os, "link", link)
    assert not create_once(tmp_path / "file", b"other")
    assert (tmp_path / "file").read_bytes() == b"content"
