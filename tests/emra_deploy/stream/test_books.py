"""Every frame is counted exactly once, under faults and with concurrent readers."""

from __future__ import annotations

import threading

from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.streams.follow import reconciles
from emra_deploy.stream import Stream, StreamOptions
from tests.emra_deploy.stream.fakes import Script, label_all, wait_for

_EVENTS = st.sampled_from(["push", "push", "push", "torn", "grown", "lose", "end", "take"])


@settings(max_examples=25, deadline=None)
@given(st.lists(_EVENTS, max_size=25), st.integers(1, 3))
def test_whatever_happens_no_frame_is_lost_or_counted_twice(events: list[str], every: int) -> None:
    script = Script()
    sent = 0
    got: list[int] = []
    with Stream(label_all, script.source, StreamOptions(every=every)) as stream:
        for event in events:
            if event == "take":
                wait_for(lambda sent=sent: stream.status().counters.received == sent)
                if stream.status().counters.waiting:
                    got.append(next(stream).frame.index)
            elif event == "lose":
                script.lose()
            elif event == "end":
                script.end()
            else:
                script.push(sent % 256, (64, 64) if event == "grown" else (48, 64), damaged=event == "torn")
                sent += 1
            assert reconciles(stream.status().counters)
        wait_for(lambda: stream.status().counters.received == sent)
    counters = stream.status().counters
    assert reconciles(counters)
    assert (counters.received, counters.waiting, counters.delivered) == (sent, 0, len(got))
    assert got == sorted(set(got))
    assert all(index % every == 0 for index in got)


def test_the_status_can_be_read_by_many_threads_while_it_runs() -> None:
    script = Script(live=False)
    problems: list[str] = []
    done = threading.Event()

    def look() -> None:
        while not done.is_set():
            status = stream.status()
            if not reconciles(status.counters):
                problems.append(str(status))
            stream.changes()

    for number in range(60):
        script.push(number % 256)
    script.end()
    with Stream(label_all, script.source) as stream:
        threads = [threading.Thread(target=look, daemon=True) for _ in range(3)]
        for thread in threads:
            thread.start()
        assert len(list(stream)) == 60
        done.set()
        for thread in threads:
            thread.join(20)
    assert problems == []
