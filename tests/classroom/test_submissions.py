"""What was handed in is read as it comes, and what cannot be used is named."""

import io
import tarfile
import zipfile
from pathlib import Path

import pytest

from emu import data
from emu.classroom import assignment, submissions
from emu.classroom.submissions import Submission

CLOCK = assignment.read(data.assignment_dirs()["steal-clock"])
GOOD = b'#include "clock.h"\n'


def zipped(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def tarred(files: dict[str, bytes], mode: str = "w:gz", link: str = "") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:  # type: ignore[call-overload]
        for name, content in files.items():
            one = tarfile.TarInfo(name)
            one.size = len(content)
            if link:
                one.type, one.linkname, one.size = tarfile.SYMTYPE, link, 0
            archive.addfile(one, io.BytesIO(content))
    return buffer.getvalue()


def read(folder: Path, name: str, content: bytes) -> Submission:
    (folder / name).write_bytes(content)
    found = submissions.read_all(folder, CLOCK)
    assert len(found) == 1
    return found[0]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("ada.zip", zipped({"clock.c": GOOD})),
        ("ada.zip", zipped({"hw/deep/clock.c": GOOD, "__MACOSX/._x": b"\0"})),
        ("ada.tar.gz", tarred({"hw/clock.c": GOOD})),
        ("ada.tar.xz", tarred({"clock.c": GOOD}, "w:xz")),
        ("ada.tar", tarred({"clock.c": GOOD}, "w")),
        ("ada.c", b""),
    ],
    ids=["zip", "deep", "tar.gz", "tar.xz", "tar", "empty"],
)
def test_archive_or_file_is_a_submission(tmp_path: Path, name: str, content: bytes) -> None:
    one = read(tmp_path, name, content)
    assert one.key == "ada"
    assert one.files == {"clock.c": GOOD} if content else one.problem


HOSTILE = [
    ("x.zip", b"", "damaged"),
    ("x.zip", b"PK\3\4 nonsense", "damaged"),
    ("x.zip", zipped({"../../clock.c": GOOD}), "a path that leads out of it"),
    ("x.zip", zipped({"/clock.c": GOOD}), "a path that leads out of it"),
    ("x.zip", zipped({"C:\\clock.c": GOOD}), "a path that leads out of it"),
    ("x.zip", zipped({"clock.c": b"0" * (65 << 20)}), "a bomb"),
    ("x.zip", zipped({f"{n}.c": b"" for n in range(5001)}), "more than 5000 entries"),
    ("x.zip", zipped({"other.c": GOOD}), "clock.c or clock.S is missing"),
    ("x.zip", zipped({"clock.c": b"/" * (300 << 10)}), "clock.c is larger than 256 KiB"),
    ("x.zip", zipped({"clock.c": b"int\0x;"}), "clock.c is binary: it has a zero byte at 3"),
    ("x.zip", zipped({"clock.c": b" \n"}), "clock.c is empty"),
    ("x.tar.gz", tarred({"clock.c": b""}, link="/etc/passwd"), "as a link, which is not followed"),
    ("x.tar.gz", tarred({"../clock.c": GOOD}), "a path that leads out of it"),
    ("x.tar.gz", tarred({"big": b"0" * (65 << 20)}), "a bomb"),
    ("x.tar.gz", b"\x1f\x8b nonsense", "damaged"),
    ("x.tar.xz", b"\xfd7zXZ\0 nonsense", "damaged"),
    ("x.tar.bz2", b"BZh9 nonsense", "damaged"),
]


@pytest.mark.parametrize(("name", "content", "told"), HOSTILE, ids=[f"{n}-{t[:24]}" for n, _, t in HOSTILE])
def test_what_cannot_be_used_is_named(tmp_path: Path, name: str, content: bytes, told: str) -> None:
    one = read(tmp_path, name, content)
    assert told in one.problem and not one.files


def test_long_name_in_a_tar_is_a_bomb_too(tmp_path: Path) -> None:
    """The header of a long name says how long it is, and tarfile would read all of that into memory."""
    head = tarfile.TarInfo("././@LongLink")
    head.type, head.size = tarfile.GNUTYPE_LONGNAME, 1 << 30
    import gzip

    raw = head.tobuf(tarfile.GNU_FORMAT) + b"a" * (80 << 20)
    assert "a bomb" in read(tmp_path, "x.tar.gz", gzip.compress(raw, 1)).problem


def test_links_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "ada").mkdir()
    (tmp_path / "ada" / "clock.c").symlink_to("/etc/passwd")
    (tmp_path / "bob").symlink_to("/etc")
    found = {one.key: one for one in submissions.read_all(tmp_path, CLOCK)}
    assert found["ada"].problem == "clock.c is a symbolic link, which is not followed"
    assert found["bob"].problem and not found["bob"].files


def test_pipe_does_not_make_it_wait(tmp_path: Path) -> None:
    import os

    (tmp_path / "ada").mkdir()
    os.mkfifo(tmp_path / "ada" / "clock.c")
    assert submissions.read_all(tmp_path, CLOCK)[0].problem == "nothing was handed in"


def test_latin_1_is_noted_and_judged(tmp_path: Path) -> None:
    one = read(tmp_path, "ada.c", b"")
    (tmp_path / "ada.c").unlink()
    one = read(tmp_path, "ada.zip", zipped({"clock.c": b"// caf\xe9\n"}))
    assert one.files and "clock.c is not UTF-8 (byte 6)" in one.notes


def test_changed_given_file_is_noted_and_not_used(tmp_path: Path) -> None:
    (tmp_path / "ada").mkdir()
    for name, content in {**CLOCK.given_files(), "clock.c": GOOD, "main.c": b"int main() {}"}.items():
        (tmp_path / "ada" / name).write_bytes(content)
    one = submissions.read_all(tmp_path, CLOCK)[0]
    assert one.files == {"clock.c": GOOD} and one.notes == ("main.c was changed; the given one was used",)


def test_gradescope_export(tmp_path: Path) -> None:
    (tmp_path / "submission_17").mkdir()
    (tmp_path / "submission_17" / "clock.c").write_bytes(GOOD)
    (tmp_path / "submission_metadata.yml").write_text(
        """---
submission_17:
  :submitters:
  - :name: Ada Lovelace
    :sid: '17'
    :email: ada@example.org
  - :name: Charles Babbage
    :sid: '18'
    :email: charles@example.org
  :created_at: 2026-11-27 10:00:00.000000000 Z
  :score: 0.0
""",
        encoding="utf-8",
    )
    (one,) = submissions.read_all(tmp_path, CLOCK)
    assert one.people == ("ada@example.org", "charles@example.org")
    assert one.submitted is not None and one.submitted.isoformat() == "2026-11-27T10:00:00+00:00"


def test_gradescope_metadata_is_data_alone(tmp_path: Path) -> None:
    (tmp_path / "submission_17").mkdir()
    (tmp_path / "submission_metadata.yml").write_text("!!python/object/apply:os.system ['touch /tmp/emu-owned']")
    from emu.faults import HostError

    with pytest.raises(HostError, match="cannot be read"):
        submissions.read_all(tmp_path, CLOCK)
    assert not Path("/tmp/emu-owned").exists()


@pytest.mark.parametrize("loose", [False, True])
def test_moodle_export(tmp_path: Path, loose: bool) -> None:
    if loose:
        (tmp_path / "Ada Lovelace_4711_assignsubmission_file_clock.c").write_bytes(GOOD)
    else:
        (tmp_path / "Ada Lovelace_4711_assignsubmission_file_").mkdir()
        (tmp_path / "Ada Lovelace_4711_assignsubmission_file_" / "clock.c").write_bytes(GOOD)
    (one,) = submissions.read_all(tmp_path, CLOCK)
    assert (one.key, one.people, one.files) == ("Ada_Lovelace_4711", ("Ada Lovelace",), {"clock.c": GOOD})


def test_github_classroom_export(tmp_path: Path) -> None:
    (tmp_path / "steal-clock-ada" / ".git").mkdir(parents=True)
    (tmp_path / "steal-clock-ada" / ".git" / "clock.c").write_bytes(b"not this one")
    (tmp_path / "steal-clock-ada" / "src").mkdir()
    (tmp_path / "steal-clock-ada" / "src" / "clock.c").write_bytes(GOOD)
    (one,) = submissions.read_all(tmp_path, CLOCK)
    assert (one.key, one.files) == ("steal-clock-ada", {"clock.c": GOOD})
