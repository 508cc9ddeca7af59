"""Faces: the main face of a clip, found by a detector of colored squares, followed and cropped."""

import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from processing_egmf import EGMFPipeline, EGMFProcessor, faces_egmf
from processing_egmf.faces_egmf import crop_main_face, load_dlib
from processing_egmf.frames_egmf import resize
from tests.helpers.processor_outputs import assert_same


RED = 0  # the face that clips are about
GREEN = 1
SIDE = 20


def detect_squares(frames):
    """Boxes of the brightest red and of the brightest green square in each frame."""
    return [[box for channel in (RED, GREEN) for box in find_square(frame, channel)] for frame in frames]


def find_square(frame, channel, level=200):
    rows, columns = np.nonzero(frame[..., channel] > level)
    if len(rows) == 0:
        return []
    height = rows.max() + 1 - rows.min()
    width = columns.max() + 1 - columns.min()
    return [(columns.min(), rows.min(), width, height, 0.9)]


def draw(places, side=SIDE, channel=RED, size=(60, 100)):
    """A clip with a square at the center (x, y) of each place; None for a frame without."""
    frames = np.zeros((len(places), *size, 3), np.uint8)
    frames[..., 2] = np.linspace(0, 90, size[1])  # no clip of one color
    for frame, place in zip(frames, places):
        if place is not None:
            x, y = place
            square = frame[y - side // 2 : y + side // 2, x - side // 2 : x + side // 2]
            square[..., channel] = 255
            square[side // 2 :, side // 4 : -side // 4, 2] = 255  # a mouth
    return frames


def crop(frames):
    return crop_main_face(frames, detect_squares, "clip 7")


def test_a_crop_is_the_same_wherever_the_face_is():
    expected, share = crop(draw([(50, 30)] * 3))
    assert share == 1
    assert expected.shape == (3, 36, 36, 3)
    assert (expected[:, 8:28, 8:28, RED] == 255).all()
    for place in ((20, 30), (80, 30), (20, 15)):
        elsewhere, _ = crop(draw([place] * 3))
        assert np.array_equal(elsewhere[..., :2], expected[..., :2])
    barred = np.zeros((3, 100, 100, 3), np.uint8)
    barred[:, 20:80] = draw([(50, 30)] * 3)
    assert np.array_equal(crop(barred)[0], expected)
    barred[:, :20], barred[:, 80:] = 12, 30  # compressed black is not quite black
    assert np.array_equal(crop(barred)[0], expected)
    small, _ = crop(draw([(30, 40)] * 3, side=8))
    assert np.abs(resize(small, (16, 16)).astype(int) - resize(expected, (16, 16)))[..., :2].mean() < 20


def test_a_crop_keeps_its_scale_and_moves_smoothly():
    frames = draw([(40, 30), (44, 30), (40, 30), (44, 30), (40, 30)])
    frames[2, 20:28] = 0  # the detector sees half of the face
    crops, share = crop(frames)
    assert share == 1
    assert crops.shape == (5, 36, 36, 3)
    corners = crops[:, 0, 0, 2].astype(int)  # the gradient of the background says where a crop is
    assert np.ptp(corners) <= 2  # of 90 in 100 pixels; the face moves 4


def test_a_box_between_pixels_is_cropped_there():
    frames = np.repeat(np.arange(100, dtype=np.uint8)[None, None, :, None] * 2, 60, axis=1).repeat(3, axis=3)

    def detector(x):
        return lambda frames: [[(x, 20, 20, 20, 1.0)]]

    middles = [crop_main_face(frames, detector(x), "a")[0][0, 18, 18, 0] for x in (40, 40.5, 41)]
    assert middles == [100, 101, 102]


def test_a_wrong_box_hardly_moves_a_crop():
    boxes = [[(40, 20, 20, 20, 1.0)]] * 8
    frames = draw([(50, 30)] * 8)
    expected, _ = crop_main_face(frames, lambda frames: boxes, "a")
    boxes = [*boxes[:7], [(43, 22, 21, 21, 1.0)]]
    crops, _ = crop_main_face(frames, lambda frames: boxes, "a")
    assert abs(len(crops[0]) - len(expected[0])) <= 1
    assert (crops[:, 12:26, 12:26, RED] == 255).all()


def test_gaps_are_interpolated_and_the_crop_stays_where_a_face_has_left():
    crops, share = crop(draw([(30, 30), None, (40, 30), (40, 30), None, None]))
    assert share == 0.5
    blue = crops[:, 0, :, 2].astype(int)  # the background's gradient says where the crop is
    assert blue[0, 0] < blue[1, 0] < blue[2, 0]
    assert np.array_equal(blue[4], blue[5])


def test_the_largest_and_most_constant_face_is_followed():
    frames = draw([(30, 30)] * 4)
    frames[..., GREEN] = draw([(75, 30)] * 4, 12, GREEN)[..., GREEN]
    assert (crop(frames)[0][:, 18, 18, RED] == 255).all()
    frames[..., GREEN] = draw([None, (75, 30), None, None], 28, GREEN)[..., GREEN]  # large, but in one frame
    assert (crop(frames)[0][:, 18, 18, RED] == 255).all()
    crossing = draw([(20, 20), (40, 20), (60, 20), (80, 20)])  # each keeps its own track
    crossing[..., GREEN] = draw([(80, 40), (60, 40), (40, 40), (20, 40)], 16, GREEN)[..., GREEN]
    crops, share = crop(crossing)
    assert share == 1
    assert (crops[:, 18, 18, RED] == 255).sum() >= 3


def test_without_a_face_the_whole_frames_are_used(make_processor, warnings_of):
    processor = make_processor(None, "frames", frames="face", face_detector=detect_squares)
    frames = draw([None] * 3)
    sample = processor.prepare(video=frames, name="clip 7")
    assert "clip 7: no face was found in 3 frames. The whole frames are used." in warnings_of()
    assert sample["face_share"] == 0
    assert_same(processor(video=frames), make_processor(None, "frames")(video=frames))
    point = np.random.default_rng(0).integers(0, 255, (3, 1, 2, 3), np.uint8)  # frames of 2 x 1 pixels
    assert crop_main_face(point, detect_squares, "clip 7")[0].shape[1:] in {(1, 2, 3), (2, 2, 3), (3, 3, 3)}
    assert crop_main_face(point[:, :, :1], lambda frames: [[(0, 0, 1, 1, 1)]] * 3, "a")[0].shape == (3, 2, 2, 3)


@pytest.mark.parametrize(
    "boxes",
    [
        None,
        [],
        [[]],
        [[(1, 2, 3, 4)], []],
        [(1, 2, 3, 4, 5), ()],
        [[(1, 2, -3, 4, 0.5)], []],
        [[(1, 2, -3, -4, 0.5)], []],
        [[(1, 2, 3, float("nan"), 0.5)], []],
        [[(1, 2, float("inf"), 4, 0.5)], []],
        [[(150, 2, 3, 4, 0.5)], []],
        [[(1, 2, 1e9, 4, 0.5)], []],
        [[(0.2, 0.3, 0.25, 0.25, 0.5)], []],  # in shares of the frame
        [[(1j, 2, 3, 4, 0.5)], []],
        [np.ma.masked_array([(1, 2, 3, 4, 0.5)], True), []],
        ([] for _ in range(10**12)),
        [["face"], []],
        np.zeros((2, 3)),
    ],
)
def test_a_detector_that_returns_nonsense_is_named(boxes):
    message = (
        r"(?s)clip 7: the face detector returned .* for 2 frames of 100 x 60 pixels; expected a list of boxes \(x, y,"
    )
    with pytest.raises(ValueError, match=message):
        crop_main_face(draw([(50, 30)] * 2), lambda frames: boxes, "clip 7")


@pytest.mark.parametrize(
    "kind",
    [np.array, torch.tensor, list, iter, lambda boxes: torch.tensor(boxes, requires_grad=True)],
)
def test_boxes_of_any_type_are_read(kind):
    frames = draw([(50, 30)] * 2)
    expected, _ = crop(frames)
    boxes = [[find_square(frame, RED)[0]] for frame in frames.astype(float)]
    crops, share = crop_main_face(frames, lambda frames: kind(boxes), "clip 7")
    assert share == 1
    np.testing.assert_array_equal(crops, expected)


def test_a_detector_may_change_the_frames_that_it_is_given():
    def detect(frames):
        boxes = detect_squares(frames)
        frames[:] = 0
        return boxes

    frames = draw([(50, 30)] * 2)
    np.testing.assert_array_equal(crop_main_face(frames, detect, "clip 7")[0], crop(frames)[0])


class UnprintableError(Exception):
    def __str__(self):
        raise ValueError

    __repr__ = __str__


def boxes_of_one_frame(frames):
    yield from detect_squares(frames)[:1]
    raise KeyError("no more")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (RuntimeError("out of memory"), r"RuntimeError\('out of memory'\)"),
        (KeyError("boxes"), r"KeyError\('boxes'\)"),
        (FileNotFoundError("weights.onnx"), r"FileNotFoundError\('weights.onnx'\)"),
        (ImportError("no such package"), r"ImportError\('no such package'\)"),
        (ValueError("x" * 10**6), r"ValueError\('x{20,100}\.\.\.x+'\)"),
        (StopIteration(), r"StopIteration\(\)"),
        (UnprintableError(), "<UnprintableError instance at 0x[0-9a-f]+>"),
    ],
)
def test_a_detector_that_fails_is_named_with_the_clip(error, message, make_processor):
    def fail(frames):
        raise error

    processor = make_processor(None, "frames", frames="face", face_detector=fail)
    message = rf"clip 7: the face detector failed on 2 frames: {message}. Correct `face_detector`, or leave video out."
    with pytest.raises(ValueError, match=f"^{message}$") as caught:
        processor.prepare(video=draw([(50, 30)] * 2), name="clip 7")
    assert caught.value.__cause__ is error


def test_a_detector_that_fails_later_is_named_with_the_clip():
    with pytest.raises(ValueError, match=r"clip 7: the face detector failed on 2 frames: KeyError\('no more'\)"):
        crop_main_face(draw([(50, 30)] * 2), boxes_of_one_frame, "clip 7")


def test_the_other_clips_are_predicted_although_a_detector_fails(make_model, make_processor):
    def detect(frames):
        boxes = detect_squares(frames)
        if not boxes[0]:
            raise RuntimeError("no face")
        return boxes

    processor = make_processor(None, "frames", frames="face", face_detector=detect)
    pipe = EGMFPipeline(model=make_model(None, "frames"), processor=processor)
    clips = [draw([place] * 2) for place in ((50, 30), None, (20, 30))]
    first, second, third = pipe(clips, on_error="skip")
    assert second == {
        "error": "clip 1: the face detector failed on 2 frames: RuntimeError('no face'). "
        "Correct `face_detector`, or leave video out."
    }
    assert first["face_share"] == third["face_share"] == 1


# ---- the processor ------------------------------------------------------------------------------------------


def test_decoded_frames_give_the_same_crops(make_processor):
    processor = make_processor(None, "frames", frames="face", face_detector=detect_squares)
    frames = draw([(30, 30), None, (40, 30), (40, 30)])
    sample = processor.prepare(video=frames)
    assert sample["face_share"] == 0.75
    assert sample["video_values"].shape == (4, 3, 16, 16)
    assert_same(processor(**processor.load_media(video=frames)), processor(video=frames))


def test_a_stored_processor_crops_faces_as_before(make_processor, tmp_path):
    processor = make_processor(None, "frames", frames="face", face_detector=detect_squares)
    processor.save_pretrained(tmp_path)
    path = tmp_path / "processor_config.json"
    fields = json.loads(path.read_text())
    assert (fields["frames"], fields["face_detector"]) == ("face", "detect_squares")
    assert {"frames", "face_detector"} <= set(fields["settings_checksum"])
    with pytest.raises(ValueError, match="`face_detector` is 'detect_squares'; give the callable of the training"):
        EGMFProcessor.from_pretrained(tmp_path)
    frames = draw([(30, 30)] * 3)
    again = EGMFProcessor.from_pretrained(tmp_path, face_detector=detect_squares)
    assert_same(again(video=frames), processor(video=frames))
    assert EGMFProcessor.from_pretrained(tmp_path, frames="full").face_detector is None
    path.write_text(json.dumps({**fields, "frames": "full"}))
    with pytest.raises(OSError, match="saved with another value of frames"):
        EGMFProcessor.from_pretrained(tmp_path)


def test_a_missing_detector_is_named(make_processor, monkeypatch):
    monkeypatch.setitem(sys.modules, "dlib", None)
    load_dlib.cache_clear()
    with pytest.raises(ImportError, match="frames='face' needs dlib: pip install dlib-bin, or pass a `face_detector`"):
        make_processor(None, "frames", frames="face")
    with pytest.raises(ValueError, match="`face_detector` is used only with frames='face' and video_input='frames'"):
        make_processor(None, "frames", face_detector=detect_squares)


def test_dlib_finds_a_drawn_face(make_processor):
    pytest.importorskip("dlib", reason="the extra `faces` is not installed")
    demo_face = pytest.importorskip("training.demo.face")
    affects = pytest.importorskip("training.demo.face_affects")
    rng = np.random.default_rng(0)
    speaker = demo_face.make_face_speaker(rng)
    clip = demo_face.render_clip(speaker, affects.mix_face_affects({}), np.zeros(25), 25.0, 288, rng)[::8]
    processor = make_processor(None, "frames", frames="face", frame_height=48, frame_width=48)
    expected = processor.prepare(video=clip)
    assert expected["face_share"] == 1
    wide = np.full((len(clip), 288, 640, 3), clip[0, 0, 0], np.uint8)
    wide[:, :, :288] = clip
    values = processor.prepare(video=wide)["video_values"]
    assert (values - expected["video_values"]).abs().mean() < 0.1


class Rectangle:
    """As of dlib."""

    def __init__(self, left, top, width, height):
        self.left, self.top, self.width, self.height = (
            lambda value=value: value for value in (left, top, width, height)
        )


def detector_of_scores(score_at):
    """A stand-in for dlib's, with the score of the frame's longer side and number among those of this side; below the
    threshold, no face."""
    searched = []

    class Detector:
        def run(self, frame, upsampling, threshold):
            side = max(frame.shape)
            searched.append(side)
            score = score_at(side, searched.count(side) - 1)
            boxes = [box[:4] for box in find_square(frame, RED, 128)] if score > threshold else []
            return [Rectangle(*box) for box in boxes], [score] * len(boxes), [0] * len(boxes)

    return Detector, searched


@pytest.mark.parametrize(
    ("score_at", "found", "largest_side"),
    [
        (lambda side, number: 1.0, 4, 480),
        (lambda side, number: 1.0 if side != 480 or number == 2 else -1.0, 4, 480),  # elsewhere, as in the third frame
        (lambda side, number: -0.2 if side in (480, 960) else 0.1, 4, 960),  # likely, and certain when enlarged
        (lambda side, number: -0.2, 0, 960),
        (lambda side, number: 0.2 if side in (480, 960) else -0.2, 0, 960),
        (lambda side, number: -1.0 if side == 480 else 0.5, 4, 960),
        (lambda side, number: -1.0, 0, 960),
    ],
)
def test_dlib_searches_where_a_face_is_likely(monkeypatch, score_at, found, largest_side):
    detector, searched = detector_of_scores(score_at)
    monkeypatch.setattr(faces_egmf, "load_dlib", detector)
    boxes = faces_egmf.detect_with_dlib(draw([(50, 30)] * 4))
    assert sum(len(of_frame) for of_frame in boxes) == found
    assert max(searched) == largest_side
    for of_frame in boxes:
        for box in of_frame:
            assert np.abs(box[:4] - (40, 20, SIDE, SIDE)).max() < 0.5


def test_dlib_runs_in_one_thread_at_a_time(monkeypatch):
    """Two at once crash the process."""
    running = []
    most = []

    class Detector:
        def run(self, frame, upsampling, threshold):
            running.append(frame)
            most.append(len(running))
            time.sleep(0.002)
            running.pop()
            return [], [], []

    monkeypatch.setattr(faces_egmf, "load_dlib", Detector)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(faces_egmf.detect_with_dlib, [draw([(50, 30)] * 2)] * 8))
    assert found == [[[], []]] * 8
    assert max(most) == 1
