"""The journal of paid calls, and when a call is tried again."""

import asyncio
import json
import random
from datetime import datetime, timezone
from types import SimpleNamespace

import pytest

from routellm_core.augmentation import Journal
from routellm_core.augmentation.journal import key_of
from routellm_core.augmentation.retry import is_retryable, retry_after_s, with_retries
from routellm_core.backends import Generation
from routellm_core.errors import ConfigurationError, DataError

ASKED = [{"role": "user", "content": "q"}]


def add(journal, key, text="t"):
    journal.add(key, role="answer", model="m", generation=Generation(text=text, input_tokens=3, output_tokens=None))


def test_what_was_added_is_there_again(tmp_path):
    with Journal(tmp_path / "new" / "j.jsonl") as journal:
        add(journal, "k1", "ünïcode \u2028 \ud800 and\nlines")
        assert journal.get("k2") is None
    with Journal(tmp_path / "new" / "j.jsonl") as journal:
        assert journal.get("k1") == Generation(
            text="ünïcode \u2028 \ud800 and\nlines", input_tokens=3, output_tokens=None
        )
        assert [model for model, _ in journal.calls()] == ["m"]


def test_a_call_is_on_the_disk_when_add_returns(tmp_path):
    with Journal(tmp_path / "j") as journal:
        add(journal, "k1")
        assert json.loads((tmp_path / "j").read_text())["key"] == "k1"  # not closed, not even flushed by us


def test_a_torn_last_line_is_cut_off_and_the_next_call_begins_a_line(tmp_path):
    path = tmp_path / "j"
    with Journal(path) as journal:
        add(journal, "k1")
        add(journal, "k2")
    whole = path.read_bytes()
    for cut in range(whole.index(b"\n") + 1, len(whole)):
        path.write_bytes(whole[:cut])
        with Journal(path) as journal:
            assert (journal.get("k1") is not None, journal.get("k2")) == (True, None)
            add(journal, "k3")
        with Journal(path) as journal:
            assert len(journal) == 2


@pytest.mark.parametrize("line", ["not json", "[]", '{"key": 1}', '{"prompt": "x"}', ""])
def test_a_file_that_is_no_journal_is_refused_and_not_touched(tmp_path, line):
    path = tmp_path / "j"
    with Journal(path) as journal:
        add(journal, "k1")
    content = path.read_text() + line + "\n"
    path.write_text(content)
    with pytest.raises(DataError, match="line 2: not a line of a journal"):
        Journal(path)
    assert path.read_text() == content


def test_two_at_a_time_are_refused(tmp_path):
    pytest.importorskip("fcntl")
    with Journal(tmp_path / "j"):
        with pytest.raises(ConfigurationError, match="open in another process"):
            Journal(tmp_path / "j")
    Journal(tmp_path / "j").close()
    with pytest.raises(ConfigurationError, match="cannot be opened: Is a directory"):
        Journal(tmp_path)


@pytest.mark.parametrize("content", ["my notes", '{"api_key": 1}', '{"prompt": "p"'])
def test_a_file_that_is_no_journal_is_left_as_it_is(tmp_path, content):
    path = tmp_path / "notes"
    path.write_text(content)  # one line without an end, as a torn one has none
    with pytest.raises(DataError, match="line 1: not a line of a journal"):
        Journal(path)
    assert path.read_text() == content


@pytest.mark.parametrize("path", ["/dev/null", "a\0b"])
def test_a_path_that_can_hold_no_journal_is_a_configuration_error(path):
    with pytest.raises(ConfigurationError, match="cannot be"):
        Journal(path)


def test_a_call_is_known_by_its_role_its_model_and_every_word():
    base = key_of("answer", "m", ASKED)
    assert base == key_of("answer", "m", [dict(ASKED[0])])
    others = [
        key_of("verdict", "m", ASKED),
        key_of("answer", "m2", ASKED),
        key_of("answer", "m", [{"role": "user", "content": "q "}]),
        key_of("answer", "m", [{"role": "system", "content": "q"}]),
        key_of("answer", "m", [*ASKED, *ASKED]),
        key_of("answerm", "", ASKED),
    ]
    assert len({base, *others}) == 7


class ClientError(Exception):
    def __init__(self, status=None, headers=None, **attributes):
        super().__init__("x")
        if status is not None or headers is not None:
            self.response = SimpleNamespace(status_code=status, headers=headers or {})
        for name, value in attributes.items():
            setattr(self, name, value)


@pytest.mark.parametrize(
    ("error", "again"),
    [
        (ClientError(429), True),
        (ClientError(status_code=503), True),
        (ClientError(code=500), True),
        (TimeoutError(), True),
        (ConnectionResetError(), True),
        (ClientError(400), False),
        (ClientError(401), False),
        (ClientError(status_code=429, code="insufficient_quota"), False),
        (ValueError("x"), False),
    ],
)
def test_what_may_work_later_is_tried_again(error, again):
    assert is_retryable(error) is again


def test_the_server_says_how_long_to_wait():
    now = datetime(2026, 1, 1, 12, 0, 0, tzinfo=timezone.utc)
    assert retry_after_s(ClientError(429, {"retry-after": "7"})) == 7.0
    assert retry_after_s(ClientError(429, {"retry-after": "Thu, 01 Jan 2026 12:00:30 GMT"}), now=now) == 30.0
    assert retry_after_s(ClientError(429, {"retry-after": "Thu, 01 Jan 2026 11:00:00 GMT"}), now=now) == 0.0
    assert retry_after_s(ClientError(429, {"retry-after": "soon"})) is None
    assert retry_after_s(ClientError(429)) is None
    assert retry_after_s(ValueError()) is None
    wrapped = ValueError()
    wrapped.__cause__ = ClientError(429, {"retry-after": "2"})
    assert retry_after_s(wrapped) == 2.0


def waits(errors, attempts=6):
    """Seconds waited between the attempts, and the result or error."""
    slept = []
    left = list(errors)

    async def call():
        if left:
            raise left.pop(0)
        return "done"

    async def sleep(seconds):
        slept.append(seconds)

    try:
        result = asyncio.run(with_retries(call, attempts=attempts, rng=random.Random(0), sleep=sleep))
    except ClientError as error:
        result = error
    return slept, result


def test_waits_double_and_are_spread():
    slept, result = waits([ClientError(500)] * 5)
    assert result == "done"
    for wait, longest in zip(slept, (1, 2, 4, 8, 16), strict=True):
        assert longest / 2 <= wait <= longest


def test_no_wait_is_longer_than_a_minute():
    slept, _ = waits([ClientError(500)] * 20, attempts=21)
    assert max(slept) <= 60.0
    assert min(slept[7:]) >= 30.0


def test_the_servers_wish_comes_before_our_own():
    slept, result = waits([ClientError(429, {"retry-after": "40"})])
    assert result == "done"
    assert 40.0 <= slept[0] <= 40.5


def test_the_last_error_comes_out_as_it_is():
    errors = [ClientError(500) for _ in range(3)]
    slept, result = waits(errors, attempts=3)
    assert result is errors[-1]
    assert len(slept) == 2
    slept, result = waits([ClientError(400)])
    assert (slept, type(result)) == ([], ClientError)
    slept, _ = waits([ClientError(429, {"retry-after": "86400"})])  # a day: nobody waits for that
    assert slept == []
