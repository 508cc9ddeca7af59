"""Sources and containers: every form of a file, refused files, playlists and URLs, and damage."""

import base64
import builtins
import gzip
import io
import os
import sys
import tempfile
from urllib.parse import quote, quote_from_bytes, unquote_to_bytes

import av
import numpy as np
import pytest

from processing_egmf.audio_egmf import load_audio
from processing_egmf.media_egmf import check_content, open_file
from processing_egmf.video_egmf import load_video
from tests.helpers.media_files import gray_frames, gray_index, sine, write_audio, write_video


RATE = 16_000


def assert_both_refuse(source, match, error=ValueError):
    with pytest.raises(error, match=f"sample 3.*: .*{match}"):
        load_audio(source, None, RATE, name="sample 3", missing_ok=True)
    with pytest.raises(error, match=f"sample 3.*: .*{match}"):
        load_video(source, 4, name="sample 3")


def data_uri(path):
    return "\n Data:video/mp4;base64," + base64.encodebytes(path.read_bytes()).decode()


def percent_encoded(path):
    return "data:video/mp4;name=a," + quote_from_bytes(path.read_bytes())


@pytest.mark.parametrize(
    "form", [str, lambda path: path.read_bytes(), lambda path: bytearray(path.read_bytes()), data_uri, percent_encoded]
)
def test_path_bytes_and_dict_give_the_same(clip, form):
    source = form(clip)
    key = "path" if isinstance(source, str) else "bytes"
    for same in (source, {key: source}):
        assert np.array_equal(load_audio(same, None, RATE), load_audio(clip, None, RATE))
        assert np.array_equal(load_video(same, 4), load_video(clip, 4))


def test_a_file_object_is_read_again_and_left_at_its_position(clip):
    with open(clip, "rb") as file:
        file.seek(7)
        for _ in range(2):
            assert np.array_equal(load_audio(file, None, RATE), load_audio(clip, None, RATE))
            assert np.array_equal(load_video(file, 4), load_video(clip, 4))
        assert file.tell() == 7
    assert np.array_equal(load_audio(io.BytesIO(clip.read_bytes())), load_audio(clip))


@pytest.mark.parametrize("seconds", [0, -1, float("nan")])
def test_bad_max_seconds(clip, seconds):
    with pytest.raises(ValueError, match="max_seconds is"):
        load_audio(clip, max_seconds=seconds)
    with pytest.raises(ValueError, match="max_seconds is"):
        load_video(clip, 4, max_seconds=seconds)


def test_missing_directory_empty_and_foreign_files(tmp_path, clip):
    assert_both_refuse(tmp_path / "none.mp4", "none.mp4.*does not exist.*Check the path", FileNotFoundError)
    assert_both_refuse(str(tmp_path), "is a directory")
    assert_both_refuse("/dev/zero", "a directory or a device")
    (tmp_path / "empty.mp4").touch()
    assert_both_refuse(tmp_path / "empty.mp4", "empty, 0 bytes")
    with pytest.raises(ValueError, match=r"sample 3 \(.*/empty\.mp4\): empty"):
        load_video(tmp_path / "empty.mp4", 4, name="sample 3")
    assert_both_refuse(b"", "empty, 0 bytes")
    for ending in ("mp4", "wav", "mp3", "mpg"):
        (tmp_path / f"text.{ending}").write_text("This is a text.\n" * 200)
        assert_both_refuse(tmp_path / f"text.{ending}", "not a readable media file.*Convert")
    assert_both_refuse(clip.read_bytes()[:20], "not a readable media file")
    assert_both_refuse(42, "cannot read media from int")
    assert_both_refuse(None, "cannot read media from NoneType")
    assert_both_refuse({"path": None, "bytes": None}, "has no media")
    assert_both_refuse(io.StringIO("text"), "open\\(path, 'rb'\\)")


def test_unreadable_file_is_refused(clip, monkeypatch):
    def refuse(path, *args, **kwargs):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(builtins, "open", refuse)
    assert_both_refuse(clip, "cannot be opened .*Permission denied.*permissions")


def test_paths_that_cannot_be_opened(tmp_path):
    loop = tmp_path / "loop.mp4"
    loop.symlink_to(loop)
    assert_both_refuse(loop, "loop.mp4' cannot be opened \\(Too many levels of symbolic links\\)")
    assert_both_refuse("x" * 5000, "x' cannot be opened \\(File name too long\\)|xxx...' cannot be opened")
    assert_both_refuse("a\0.mp4", "a character that no file name can have")
    assert_both_refuse("\ud800.mp4", "ud800.mp4' cannot be opened|does not exist", (ValueError, FileNotFoundError))
    with pytest.raises(ValueError, match="cannot be opened") as caught:
        load_video("x" * 5000, 4)
    assert len(str(caught.value)) < 700


class FailingFile(io.BytesIO):
    """A file object that raises an error once some bytes have been read."""

    def __init__(self, content, limit, error):
        super().__init__(content)
        self.limit = limit
        self.error = error

    def read(self, size=-1):
        content = super().read(size)
        self.limit -= len(content)
        if self.limit < 0:
            raise self.error
        return content


@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), EOFError("cut off"), RuntimeError("no network")])
@pytest.mark.parametrize("limit", [0, 2000])
def test_errors_of_reading_are_named(clip, error, limit):
    for load in (load_audio, lambda *args, **kwargs: load_video(*args, 4, **kwargs)):
        with pytest.raises(ValueError, match=f"sample 3: cannot be read.*{error}".replace("[", "\\[")) as caught:
            load(FailingFile(clip.read_bytes(), limit, error), name="sample 3")
        assert caught.value.__cause__ is error


def test_a_file_that_was_opened_for_writing_as_well_is_read(clip):
    expected = load_audio(clip)
    compressed = gzip.compress(clip.read_bytes())
    with tempfile.TemporaryFile() as file, gzip.open(io.BytesIO(compressed)) as unpacked:
        file.write(clip.read_bytes())
        for source in (file, unpacked):
            assert np.array_equal(load_audio(source), expected)
            assert len(load_video(source, 4)) == 4
    with (
        gzip.open(io.BytesIO(compressed[: len(compressed) // 2])) as cut,
        pytest.raises(ValueError, match="cannot be"),
    ):
        load_audio(cut)


PLACEHOLDERS = {
    "pointer": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
        "a Git LFS pointer.*git lfs pull",
    ),
    "annex": (b"/annex/objects/SHA256E-s1--4d7a.mp4\n", "a git-annex pointer.*git annex get"),
    "page": (b"\xef\xbb\xbf\n<!DOCTYPE html>\n<html><body>Sign in</body></html>", "a web page that was saved"),
    "error": (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "a web page that was saved"),
}


@pytest.mark.parametrize("kind", PLACEHOLDERS)
def test_placeholders_are_named_as_what_they_are(tmp_path, kind):
    content, message = PLACEHOLDERS[kind]
    path = tmp_path / "clip.mp4"
    path.write_bytes(content)
    for source in (path, content, io.BytesIO(content)):
        assert_both_refuse(source, message)
    with pytest.raises(ValueError, match=f"labels.csv: {message}"):
        check_content(content, "labels.csv")
    check_content(b"id,text\n1,<html> is a word\n", "labels.csv")


@pytest.mark.parametrize(
    "url",
    ["http://x.org/a.mp4", "https://x.org/a.mp4", "file:///etc/passwd", "rtsp://x", "blob:x"],
)
def test_urls_are_refused(url):
    assert_both_refuse(url, "is a URL.*download the file first")
    assert_both_refuse({"path": url}, "is a URL")


def test_base64_may_be_percent_encoded(clip):
    encoded = base64.b64encode(clip.read_bytes()).decode()
    assert "+" in encoded and "/" in encoded
    source = f"data:;base64,{quote(encoded, safe='')}"
    assert np.array_equal(load_audio(source, None, RATE), load_audio(clip, None, RATE))


def test_percent_codes_are_decoded_as_by_the_standard_library():
    content = bytes(range(256)) * 40 + b"=0A=\n%0g% %%41\r\n_ \t\n%4"
    for encoded in (quote_from_bytes(content), content.decode("latin-1").replace("%", "%25"), "=41%3D41%zz%4 %"):
        with open_file(f"data:,{encoded}", "sample 3") as file:
            assert file.read() == unquote_to_bytes(encoded)


def test_damaged_or_too_long_data_uri_is_refused(monkeypatch):
    assert_both_refuse("data:,", "empty, 0 bytes")
    assert_both_refuse("data:audio/wav;base64", "empty, 0 bytes")
    assert_both_refuse("data:audio/wav,RIFF%00", "not a readable media file, or cut off")
    assert_both_refuse("data:audio/wav;base64,UklG*", "not valid base64.*Encode the file's bytes again")
    assert_both_refuse("UklG" * 2000, "cannot be opened .*; base64 needs 'data:audio/wav;base64,' before it")
    monkeypatch.setattr("processing_egmf.media_egmf.MAX_DATA_URI", 25)
    assert_both_refuse("data:audio/wav;base64,UklGRg==", "a `data:` URI of 30 characters; at most 25. Give the path")


@pytest.mark.parametrize("as_bytes", [False, True])
def test_playlists_never_reach_another_file(tmp_path, monkeypatch, as_bytes):
    monkeypatch.chdir(tmp_path)
    secret = write_audio(tmp_path / "secret.wav", sine(440, 1.0, RATE), RATE)
    hls = "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:1,\n{}\n#EXT-X-ENDLIST\n"
    concat = "ffconcat version 1.0\nfile secret.wav\n"
    playlists = {
        "list.m3u8": hls.format("secret.wav"),
        "list.mp4": hls.format(f"file://{secret}"),
        "list.ffconcat": concat,
        "list.wav": concat,
        "list.sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio 9999 RTP/AVP 0\n",
        "list.mpd": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" profiles="urn:mpeg:dash:profile">'
        "<Period><AdaptationSet><Representation><BaseURL>secret.wav</BaseURL></Representation></AdaptationSet>"
        "</Period></MPD>",
    }
    for file_name, text in playlists.items():
        (tmp_path / file_name).write_text(text)

    # Reading sets a time of access that is older than the modification; not every file system keeps it.
    os.utime(secret, (1, 2**31 - 1))
    with (
        open("list.ffconcat", "rb") as file,
        av.open(file) as container,
    ):  # what happens without our guard
        assert container.streams.audio
    is_kept = os.stat(secret).st_atime != 1

    os.utime(secret, (1, 2**31 - 1))
    for file_name in playlists:
        path = tmp_path / file_name
        assert_both_refuse(
            path.read_bytes() if as_bytes else path,
            "not a readable media file.*no playlists",
        )
    for path in (
        "concat:secret.wav",
        "subfile,,start,0,end,0,,:secret.wav",
        "file:secret.wav",
        "async:secret.wav",
    ):
        assert_both_refuse(path, "does not exist", FileNotFoundError)
    assert os.stat(secret).st_atime == 1 or not is_kept


@pytest.mark.parametrize("ending", [".mkv", ".ts", ".mp4"])
def test_truncated_file_gives_its_first_part_with_a_warning(tmp_path, ending, warnings_of):
    noise = np.random.default_rng(0).integers(0, 255, (40, 48, 64, 3), np.uint8)
    frames = np.concatenate([gray_frames(20), noise])
    options = {"movflags": "faststart"} if ending == ".mp4" else None
    data = write_video(tmp_path / f"whole{ending}", frames, 20, options=options).read_bytes()
    video = load_video(data[: len(data) // 2], 99, name="sample 3")
    assert gray_index(video[:20]) == list(range(20))
    assert 20 < len(video) < 50
    if ending == ".mp4":  # the others do not say how long they should be
        assert "sample 3" in warnings_of()


def test_an_mp4_without_its_index_is_refused(clip):
    data = clip.read_bytes()
    assert_both_refuse(data[: data.find(b"moov") - 4], "not a readable media file|no video|no audio")


def test_damage_in_the_middle_is_reported(tmp_path, warnings_of):
    data = bytearray(write_audio(tmp_path / "tone.mp3", sine(440, 2.0, RATE), RATE).read_bytes())
    data[len(data) // 2 : len(data) // 2 + 200] = bytes(range(200))
    samples = load_audio(bytes(data), None, RATE, name="sample 3")
    assert RATE < len(samples) < 2 * RATE
    assert "sample 3: damaged audio (1 errors" in warnings_of()

    noise = np.random.default_rng(0).integers(0, 255, (40, 48, 64, 3), np.uint8)
    data = bytearray(write_video(tmp_path / "noise.mkv", noise).read_bytes())
    data[len(data) // 2 : len(data) // 2 + 5000] = bytes(5000)
    assert len(load_video(bytes(data), 99, name="sample 4")) > 10
    assert "sample 4: damaged video" in warnings_of()


def test_a_title_in_an_old_encoding_is_accepted(tmp_path):
    path = write_audio(tmp_path / "tone.wav", sine(440, 0.5, RATE), RATE, title="QQQQQQ")
    data = path.read_bytes()
    assert b"QQQQQQ" in data
    assert len(load_audio(data.replace(b"QQQQQQ", b"caf\xe9\xff\xfe"), None, RATE)) == RATE // 2


def test_without_pyav_the_message_names_it_and_arrays_still_work(clip, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ImportError, match="pip install av"):
        load_audio(clip, None, RATE)
    with pytest.raises(ImportError, match="pip install av"):
        load_video(clip, 4)
    assert len(load_audio(sine(440, 0.5, RATE), RATE, RATE)) == RATE // 2
    assert len(load_video(gray_frames(9), 4)) == 4
