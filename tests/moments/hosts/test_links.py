"""Connections between processes, here threads: they come together, agree, and notice each other's end."""

import functools
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from processes import free_port

from jaxalign.core.errors import UserError
from jaxalign.moments.hosts import REACH_SECONDS, Hosts, Links, Place, links
from jaxalign.moments.hosts.shares import share, share_of_pairs

SECONDS = 5.0


def everywhere(function, count):
    """What a function of each place gives or raises, all at once."""
    port = free_port()
    places = [Place.of(f"127.0.0.1:{port}", count, index) for index in range(count)]

    def outcome(place):
        try:
            return function(place)
        except UserError as error:
            return str(error)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(outcome, places))


@pytest.fixture
def joined(request):
    """Three linked processes, and what they were told when they had to end."""
    ended = {index: [] for index in range(3)}
    told = {index: threading.Event() for index in range(3)}

    def join(place):
        def on_end(sentence, status):
            ended[place.index].append((sentence, status))
            told[place.index].set()

        return Links.join(place, SECONDS, on_end)

    return everywhere(join, 3), ended, told


def test_values_pass_in_the_order_of_processes(joined):
    links, ended, _ = joined
    with ThreadPoolExecutor(3) as pool:
        gathered = list(pool.map(lambda each: each.gather({"from": each.place.index}), links))
        spread = list(pool.map(lambda each: each.spread([each.place.index, "ü", float("inf")]), links))
        list(pool.map(lambda each: each.close(), reversed(links)))
    assert gathered == [[{"from": 0}, {"from": 1}, {"from": 2}], None, None]
    assert spread == [[0, "ü", float("inf")]] * 3
    assert not any(ended.values())


def test_a_difference_is_one_sentence_everywhere(joined):
    links, ended, _ = joined

    def agree(each):
        with pytest.raises(UserError) as raised:
            Hosts(each).agree(
                each.place.index == 2,
                lambda one, other, number: None if one == other else f"process {number} differs.",
            )
        return str(raised.value)

    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(agree, links)) == ["process 2 differs."] * 3
    assert not any(ended.values())


@pytest.mark.parametrize("gone", [0, 2])
def test_the_end_of_one_is_a_sentence_at_the_others(joined, gone, tmp_path):
    links, ended, told = joined
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    others = [index for index in range(3) if index != gone]
    links[others[0]].scratch.append(scratch)
    links[others[1]].advice = "Start again."
    links[gone]._over = True  # it says nothing itself
    for connection in links[gone]._sockets.values():
        connection.shutdown(socket.SHUT_RDWR)
        connection.close()
    for index in others:
        assert told[index].wait(SECONDS)
    sentence = f"process {gone} of 3 is gone before the run was done."
    assert ended[others[0]] == [(sentence, 1)]
    assert ended[others[1]] == [(f"{sentence} Start again.", 1)]
    assert not ended[gone]
    assert not scratch.exists()


def test_what_stops_one_is_said_by_all(joined):
    links, ended, told = joined
    links[1].fail("its disk is full.", 2)
    for index in (0, 2):
        assert told[index].wait(SECONDS)
        assert ended[index] == [("process 1 of 3: its disk is full.", 2)]
    assert not ended[1]


def test_silence_counts_as_the_end(monkeypatch):
    monkeypatch.setattr(links, "SILENT_SECONDS", 0.3)
    told, sentences = threading.Event(), []

    def on_end(sentence, status):
        sentences.append(sentence)
        told.set()

    everywhere(lambda place: Links.join(place, SECONDS, on_end), 2)
    assert told.wait(SECONDS)
    assert "is gone before the run was done." in sentences[0]


def test_a_coordinator_that_is_not_there_is_a_sentence_in_time():
    place = Place.of(f"127.0.0.1:{free_port()}", 2, 1)
    with pytest.raises(
        UserError, match="cannot be reached within 0.5 s by process 1 of 2: Connection refused"
    ):
        Links.join(place, 0.5)
    assert REACH_SECONDS < 60  # the seconds of a run


def test_processes_that_do_not_come_are_named():
    outcomes = everywhere(lambda place: place.index in (0, 3) and Links.join(place, 1.0), 4)  # 1 and 2 do not
    assert outcomes[0] == outcomes[3]
    assert "processes 1, 2 of 4 did not come to 127.0.0.1:" in str(outcomes[0])


def test_two_processes_of_one_number_are_refused():
    port = free_port()
    places = [Place.of(f"localhost:{port}", 3, index) for index in (0, 1, 1)]

    def outcome(place):
        with pytest.raises(UserError) as raised:
            Links.join(place, SECONDS)
        return str(raised.value)

    with ThreadPoolExecutor(3) as pool:
        sentences = list(pool.map(outcome, places))
    assert all("says that it is process 1 of 3; process 0 expects 2 of 3" in each for each in sentences)


def test_another_program_at_the_port_is_a_sentence():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(
            UserError, match=f"process 0 cannot listen at 127.0.0.1:{port}: Address already in use"
        ):
            Links.join(Place.of(f"127.0.0.1:{port}", 2, 0), SECONDS)
        answer = functools.partial(server.accept)
        with ThreadPoolExecutor(1) as pool:
            pool.submit(lambda: answer()[0].sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n"))
            with pytest.raises(UserError, match="is not process 0 of this run"):
                Links.join(Place.of(f"127.0.0.1:{port}", 2, 1), SECONDS)


@pytest.mark.parametrize("whole", ["pair", "source", "unordered"])
@pytest.mark.parametrize("shares", [1, 2, 3, 7, 50])
def test_every_pair_is_in_one_share(whole, shares):
    names = "abcdefg"
    pairs = [(s, t) for s in names for t in names if s != t][1:]
    parts = [share_of_pairs(pairs, index, shares, whole) for index in range(shares)]
    assert sorted(pair for part in parts for pair in part) == pairs
    assert all(part == sorted(part) for part in parts)
    for part in parts:
        for source, target in part:
            if whole == "source":
                assert {pair for pair in pairs if pair[0] == source} <= set(part)
            if whole == "unordered" and (target, source) in pairs:
                assert (target, source) in part
    sizes = [len(part) for part in parts]
    assert max(sizes) - min(sizes) <= {"pair": 1, "source": 7, "unordered": 3}[whole]


def test_rows_are_dealt_evenly():
    for count, shares in ((10, 3), (2, 5), (0, 2)):
        parts = [range(count)[share(count, index, shares)] for index in range(shares)]
        assert [row for part in parts for row in part] == list(range(count))
        assert max(map(len, parts)) - min(map(len, parts)) <= 1
