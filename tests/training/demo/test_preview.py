"""The contact sheet: seven emotions of four speakers."""

from PIL import Image

from training.demo.preview import write_preview


def test_preview(corpus, tmp_path):
    write_preview(corpus, tmp_path / "sheet.png", tile=32)
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width > 7 * 32
        assert sheet.height > 4 * 32
