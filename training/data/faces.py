"""Faces in the clips of a dataset, for `frames="face"`: searched once, however often a clip is used.

decoded clip ─► crop_face ─► crops in the encoder's size, kept in memory ─► augmented ─► prepare_cropped
"""

import copy
import threading
from typing import Any

from processing_egmf import EGMFProcessor
from processing_egmf.faces_egmf import crop_main_face
from processing_egmf.frames_egmf import scale_frames
from processing_egmf.frontends_egmf import encoder_size


FACE_SHARE = "face_share"
# Clips are decoded in threads, and a detector of one's own need not be safe in several at once.
ONE_AT_A_TIME = threading.Lock()


def crop_face(processor: EGMFProcessor, media: dict[str, Any], name: str) -> dict[str, Any]:
    """A decoded clip with only the face, as `processor.encode_media` crops it, and its `face_share`; unchanged unless
    the processor crops faces.

    Args:
        processor: the processor.
        media: from `processor.load_media`.
        name: the sample's name in messages.
    """
    if processor.frames != "face" or "video" not in media:
        return media
    with ONE_AT_A_TIME:
        face, share = crop_main_face(media["video"], processor.face_detector, name)
    return {**media, "video": scale_frames(face, encoder_size(processor), "full"), FACE_SHARE: share}


def decode_face(dataset: Any, example: dict[str, Any]) -> dict[str, Any]:
    """The decoded clip of an example of an `EGMFDataset`, cropped."""
    return crop_face(dataset.processor, dataset.decode(example), f"example {example['id']!r}")


def prepare_cropped(processor: EGMFProcessor, face_share: float | None = None, **sample: Any) -> dict[str, Any]:
    """`processor.prepare` for a clip from `crop_face`, whose face is not searched again; None for any other clip."""
    if face_share is None:
        return processor.prepare(**sample)
    processor = copy.copy(processor)
    processor.frames = "full"
    prepared = processor.prepare(**sample)
    return {**prepared, FACE_SHARE: face_share} if "video_values" in prepared else prepared
