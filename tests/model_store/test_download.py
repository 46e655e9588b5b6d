"""Downloads over connections that break, and members of archives that mean harm."""

import io
import itertools
import json
import random
import sys
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from model_store.download import ATTEMPTS, DownloadError, Unreachable, fetch, read_member
from tests.model_store.servers import Fault, Page, Server, closed_address, tar_gz

FILE = random.Random(0).randbytes(200_000)
OTHER = random.Random(1).randbytes(150_000)
CUT = Fault(cut_after=60_000)
SHORT_S = 0.5
WANTED = "weights_frozen.pb"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "*")
    with Server() as server:
        server.put("/file", FILE)
        yield server


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "file"


class Pauses(list[float]):
    """A clock's `sleep` that only notes."""

    def __call__(self, seconds: float) -> None:
        self.append(seconds)


class Seen:
    """A tracker that notes what it is told."""

    def __init__(self) -> None:
        self.updates: list[tuple[int, int | None]] = []

    def update(self, done: int, total: int | None = None) -> None:
        self.updates.append((done, total))


def get(server: Server, target: Path, **options: object) -> None:
    fetch(f"{server.url}/file", target, **{"sleep": Pauses(), **options})  # type: ignore[arg-type]


def left_over(target: Path) -> list[str]:
    return sorted(path.name for path in target.parent.iterdir() if path != target)


def test_a_file_arrives_whole(server: Server, target: Path) -> None:
    seen = Seen()
    get(server, target, tracker=seen)
    assert target.read_bytes() == FILE
    assert left_over(target) == []
    assert seen.updates[-1] == (len(FILE), len(FILE))


def test_a_cut_download_is_continued_where_it_ended(server: Server, target: Path) -> None:
    server.faults = [CUT, CUT, Fault(cut_after=0), CUT]
    pauses, seen = Pauses(), Seen()
    get(server, target, sleep=pauses, tracker=seen)
    assert target.read_bytes() == FILE
    assert server.body_bytes == len(FILE)  # no byte came twice
    assert len(pauses) == 4
    assert seen.updates[-1] == (len(FILE), len(FILE))
    assert [done for done, _ in seen.updates] == sorted(done for done, _ in seen.updates)


def test_more_cuts_than_attempts_are_no_failure_while_it_gets_on(server: Server, target: Path) -> None:
    server.faults = [Fault(cut_after=10_000)] * (2 * ATTEMPTS)
    get(server, target)
    assert target.read_bytes() == FILE
    assert server.body_bytes == len(FILE)


def test_a_server_without_ranges_starts_over(server: Server, target: Path) -> None:
    server.ranges = False
    server.faults = [CUT]
    get(server, target)
    assert target.read_bytes() == FILE
    assert server.body_bytes == len(FILE) + 60_000


def test_a_file_that_comes_in_parts_is_taken_to_its_end(server: Server, target: Path) -> None:
    """A server may send less of a range than was asked for (RFC 9110, 15.3.7)."""
    server.longest_range = 30_000
    server.faults = [CUT]
    get(server, target)
    assert target.read_bytes() == FILE


def test_a_file_that_changes_in_between_is_never_mixed(server: Server, target: Path) -> None:
    server.faults = [CUT, CUT]
    get(server, target, sleep=lambda _: server.put("/file", OTHER))
    assert target.read_bytes() == OTHER
    assert server.received[1].headers["range"] == "bytes=60000-"


@pytest.mark.parametrize("etag", [None, 'W/"weak"'])
def test_without_a_strong_validator_it_starts_over(server: Server, target: Path, etag: str | None) -> None:
    server.pages["/file"] = Page(FILE, etag=etag)
    server.faults = [CUT]
    changed = Page(OTHER, etag=etag)
    get(server, target, sleep=lambda _: server.pages.update({"/file": changed}))
    assert target.read_bytes() == OTHER


def test_a_file_that_shrank_below_what_came_starts_over(server: Server, target: Path) -> None:
    """Its server does not know it has changed: the answer to the range is 416."""
    server.pages["/file"] = Page(FILE, etag='"same"')
    server.faults = [CUT]
    small = Page(OTHER[:50_000], etag='"same"')
    get(server, target, sleep=lambda _: server.pages.update({"/file": small}))
    assert target.read_bytes() == OTHER[:50_000]
    assert left_over(target) == []


@pytest.mark.parametrize("note", ["{", "[]", "\udce9"])
def test_a_broken_note_beside_the_part_starts_over(server: Server, target: Path, note: str) -> None:
    target.with_name("file.part").write_bytes(OTHER[:1000])
    target.with_name("file.part.json").write_bytes(note.encode("utf-8", "surrogateescape"))
    get(server, target)
    assert target.read_bytes() == FILE
    assert left_over(target) == []


@pytest.mark.parametrize("status", [404, 403, 410])
def test_what_is_not_there_is_not_asked_for_again(server: Server, target: Path, status: int) -> None:
    server.faults = [Fault(status=status)]
    with pytest.raises(DownloadError, match=str(status)) as caught:
        get(server, target)
    assert not isinstance(caught.value, Unreachable)  # somebody answered: no fallback
    assert len(server.received) == 1
    assert not target.exists()


@pytest.mark.parametrize("status", [500, 503, 429])
def test_a_server_in_trouble_is_asked_again(server: Server, target: Path, status: int) -> None:
    server.faults = [Fault(status=status), Fault(status=status)]
    pauses = Pauses()
    get(server, target, sleep=pauses)
    assert target.read_bytes() == FILE
    assert pauses == sorted(pauses)
    assert pauses[0] < pauses[1]  # it is given more time each time


def test_a_silent_server_is_unreachable(server: Server, target: Path) -> None:
    server.faults = [Fault(silent=True)]
    with pytest.raises(Unreachable, match=rf"no answer in {SHORT_S:g} s"):
        get(server, target, timeout_s=SHORT_S)
    assert len(server.received) == 1


def test_a_server_that_hangs_up_is_unreachable(server: Server, target: Path) -> None:
    server.faults = [Fault(raw=b"")]
    with pytest.raises(Unreachable):
        get(server, target)


def test_no_http_is_unreachable(server: Server, target: Path) -> None:
    server.faults = [Fault(raw=b"SSH-2.0-OpenSSH_9.6\r\n")]
    with pytest.raises(Unreachable):
        get(server, target)


def test_nothing_listening_is_unreachable(target: Path) -> None:
    with closed_address() as url, pytest.raises(Unreachable, match="cannot be reached"):
        fetch(f"{url}/file", target, sleep=Pauses())
    assert left_over(target) == []


@pytest.mark.parametrize("url", ["storage.example/models", "", "htp://a/b", "http://127.0.0.1:1/é"])
def test_what_is_no_address_is_said(target: Path, url: str) -> None:
    with pytest.raises(DownloadError, match=r"address|reached"):
        fetch(url, target, sleep=Pauses())


def test_a_server_that_stops_midway_is_asked_for_the_rest(server: Server, target: Path) -> None:
    server.faults = [Fault(stall_after=60_000)]
    get(server, target, timeout_s=SHORT_S)
    assert target.read_bytes() == FILE
    assert server.received[1].headers["range"] == "bytes=60000-"


def test_a_server_that_keeps_failing_is_left_and_continued_later(server: Server, target: Path) -> None:
    server.faults = [CUT] + [Fault(status=503)] * (ATTEMPTS - 1)
    with pytest.raises(DownloadError, match="continue") as caught:
        get(server, target)
    assert not isinstance(caught.value, Unreachable)
    assert not target.exists()
    assert len(server.received) == ATTEMPTS
    get(server, target)
    assert target.read_bytes() == FILE
    assert server.body_bytes == len(FILE)


def test_cuts_anywhere_without_ranges_are_given_up(server: Server, target: Path) -> None:
    """A proxy that cuts now earlier, now later, and never gives a part: no end in sight."""
    server.ranges = False
    server.faults = [Fault(cut_after=50_000), Fault(cut_after=40_000)] * ATTEMPTS
    with pytest.raises(DownloadError, match="in a row"):
        get(server, target)


def test_a_body_without_length_is_complete_when_it_ends(server: Server, target: Path) -> None:
    chunks = b"5\r\nhello\r\n6\r\n world\r\n"
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    server.faults = [Fault(raw=head + chunks), Fault(raw=head + chunks + b"0\r\n\r\n")]
    get(server, target)
    assert target.read_bytes() == b"hello world"
    assert len(server.received) == 2  # the first ended before its last chunk


def test_an_old_file_stays_until_the_new_one_is_whole(server: Server, target: Path) -> None:
    target.write_bytes(b"old")
    server.faults = [CUT] + [Fault(status=500)] * ATTEMPTS
    with pytest.raises(DownloadError):
        get(server, target)
    assert target.read_bytes() == b"old"


def test_the_validator_is_kept_with_the_part(server: Server, target: Path) -> None:
    """What another process needs to go on."""
    server.faults = [CUT] + [Fault(status=500)] * ATTEMPTS
    with pytest.raises(DownloadError):
        get(server, target)
    assert left_over(target) == ["file.part", "file.part.json"]
    assert json.loads(target.with_name("file.part.json").read_text()) == server.pages["/file"].etag


class Died(BaseException):
    """As if the process had ended there: no code of ours catches it."""


class Deaths:
    """Counts what touches files, and ends the download at one step."""

    def __init__(self) -> None:
        self._left = 0
        self._thread = threading.get_ident()
        sys.addaudithook(self._on_event)

    def at(self, step: int) -> None:
        self._left = step

    def _on_event(self, event: str, _: object) -> None:
        if not self._left or threading.get_ident() != self._thread:
            return
        if event in ("open", "os.remove", "os.rename", "os.truncate"):
            self._left -= 1
            if not self._left:
                raise Died


@pytest.fixture(scope="module")
def deaths() -> Deaths:
    return Deaths()  # once: a hook cannot be taken away


@pytest.mark.parametrize("now", [FILE, OTHER])
@pytest.mark.parametrize("ranges", [True, False])
def test_a_death_at_any_step_leaves_what_can_be_continued(
    server: Server, target: Path, deaths: Deaths, now: bytes, ranges: bool
) -> None:
    """Also where the file changed after the part was fetched."""
    for step in itertools.count(1):
        target.unlink(missing_ok=True)
        server.put("/file", FILE)
        server.faults = [CUT] + [Fault(status=500)] * (ATTEMPTS - 1)
        with pytest.raises(DownloadError):
            get(server, target)
        server.put("/file", now)
        server.ranges = ranges
        deaths.at(step)
        died = False
        try:
            get(server, target)
        except Died:
            died = True
            assert not target.exists() or target.read_bytes() == now
        deaths.at(0)
        get(server, target)
        assert target.read_bytes() == now
        assert left_over(target) == []
        if not died:
            break
    assert step > 3


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Of the archive, with room above it for what may escape."""
    folder = tmp_path / "above" / "folder"
    folder.mkdir(parents=True)
    return folder


def read(folder: Path, archive: bytes, max_bytes: int = 1000) -> bytes:
    """`read_member` of an archive; whatever it does, no other file appears."""
    path = folder / "archive.tgz"
    path.write_bytes(archive)
    try:
        return read_member(path, lambda name: name.endswith(WANTED), max_bytes)
    finally:
        above = folder.parent.parent
        assert [p for p in above.rglob("*") if p.is_symlink() or p.is_file()] == [path]


def refused(folder: Path, archive: bytes) -> str:
    with pytest.raises(DownloadError) as caught:
        read(folder, archive)
    return str(caught.value)


def archive_of(member: tarfile.TarInfo) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        tar.addfile(member)
    return buffer.getvalue()


def test_the_wanted_member_is_read(folder: Path) -> None:
    archive = tar_gz({"./a.meta": b"no", f"./{WANTED}": b"weights", f"./later_{WANTED}": b"other"})
    assert read(folder, archive) == b"weights"


@pytest.mark.parametrize("name", [f"../{WANTED}", f"../../{WANTED}", "/absolute_" + WANTED])
def test_a_name_that_leads_out_of_the_folder_leads_nowhere(folder: Path, name: str) -> None:
    assert read(folder, tar_gz({"../../evil": b"evil", name: b"weights"})) == b"weights"


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE])
def test_only_a_regular_file_is_read(folder: Path, kind: bytes) -> None:
    member = tarfile.TarInfo(WANTED)
    member.type, member.linkname = kind, "/etc/hostname"
    assert "no file of the kind" in refused(folder, archive_of(member))


def test_a_link_of_the_wanted_name_is_passed_over(folder: Path) -> None:
    archive = tar_gz({f"x_{WANTED}": b"weights"}, links={WANTED: "/etc/hostname"})
    assert read(folder, archive) == b"weights"


def test_a_member_is_as_large_as_allowed_and_no_larger(folder: Path) -> None:
    assert len(read(folder, tar_gz({WANTED: bytes(1000)}))) == 1000
    assert "1001 bytes" in refused(folder, tar_gz({WANTED: bytes(1001)}))


@pytest.mark.parametrize("kept", [0.0, 0.1, 0.5, 0.8])
def test_a_truncated_archive_is_refused(folder: Path, kept: float) -> None:
    whole = tar_gz({WANTED: random.Random(2).randbytes(1000)})
    refused(folder, whole[: int(kept * len(whole))])


@pytest.mark.parametrize("at", [20, 200, 600])
def test_a_damaged_archive_gives_an_error_of_ours(folder: Path, at: int) -> None:
    whole = bytearray(tar_gz({WANTED: random.Random(2).randbytes(1000)}))
    whole[at : at + 40] = bytes(40)
    refused(folder, bytes(whole))


@pytest.mark.parametrize("data", [b"", b"<html>Please log in</html>", b"\x1f\x8b", bytes(2048), FILE])
def test_what_is_no_archive_is_refused(folder: Path, data: bytes) -> None:
    refused(folder, data)


def test_an_archive_without_the_member_is_refused(folder: Path) -> None:
    assert "archive.tgz has no file" in refused(folder, tar_gz({"./a_info.txt": b"Model"}))
