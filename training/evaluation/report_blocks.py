"""A report as a list of blocks, written as Markdown and as one HTML file that needs nothing else.

[Heading, Paragraph, Table, Picture] ─┬─► to_markdown: pictures are files next to it
                                      └─► to_html: pictures are embedded; no scripts, nothing from the net
"""

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

from .tables import markdown_table


STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #2b3440; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1, h2, h3 { line-height: 1.2; margin-top: 2rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 0.9rem; margin: 1rem 0; }
th, td { padding: 0.3rem 0.7rem; border-bottom: 1px solid #e3e8ee; text-align: left; vertical-align: top; }
img { max-width: 100%; }
figure { margin: 1rem 0; }
figcaption { font-size: 0.9rem; color: #5d6b7a; }
.warning { border-left: 4px solid #c8553d; padding: 0.5rem 1rem; background: #fbefec; }
code { background: #f1f4f7; padding: 0 0.2rem; }
"""


@dataclass(frozen=True)
class Heading:
    """A heading; level 1 is the title."""

    text: str
    level: int = 2


@dataclass(frozen=True)
class Paragraph:
    """Text, with code between backticks; a warning stands out."""

    text: str
    warning: bool = False


@dataclass(frozen=True)
class Table:
    """A table; cells are written as `str` does."""

    header: Sequence[str]
    rows: Sequence[Sequence[object]] = field(default_factory=list)


@dataclass(frozen=True)
class Picture:
    """A PNG file in the report's folder."""

    name: str
    caption: str


Block = Heading | Paragraph | Table | Picture


def to_markdown(blocks: Sequence[Block]) -> str:
    """The report as Markdown."""
    return "\n\n".join(map(_markdown, blocks)) + "\n"


def _markdown(block: Block) -> str:
    if isinstance(block, Heading):
        return "#" * block.level + " " + block.text
    if isinstance(block, Paragraph):
        return f"**{block.text}**" if block.warning else block.text
    if isinstance(block, Picture):
        return f"![{block.caption}]({block.name})"
    header, *rows = [list(map(_markdown_cell, row)) for row in (block.header, *block.rows)]
    return "\n".join(markdown_table(header, rows))


def _markdown_cell(cell: object) -> str:
    return str(cell).replace("|", "\\|").replace("\n", " ")


def to_html(blocks: Sequence[Block], folder: Path) -> str:
    """The report as one HTML file.

    Args:
        blocks: of the report.
        folder: with the pictures.
    """
    title = next((block.text for block in blocks if isinstance(block, Heading)), "Report")
    body = "\n".join(_html(block, folder) for block in blocks)
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{escape(title)}</title>\n'
        f'<meta name="viewport" content="width=device-width">\n<style>{STYLE}</style>\n</head>\n'
        f"<body>\n{body}\n</body>\n</html>\n"
    )


def _html(block: Block, folder: Path) -> str:
    if isinstance(block, Heading):
        return f"<h{block.level}>{escape(block.text)}</h{block.level}>"
    if isinstance(block, Paragraph):
        text = re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(block.text))
        return f'<p class="warning">{text}</p>' if block.warning else f"<p>{text}</p>"
    if isinstance(block, Picture):
        content = base64.b64encode((folder / block.name).read_bytes()).decode()
        caption = escape(block.caption)
        image = f'<img alt="{caption}" src="data:image/png;base64,{content}">'
        return f"<figure>{image}<figcaption>{caption}</figcaption></figure>"
    head = "".join(f"<th>{escape(str(cell))}</th>" for cell in block.header)
    rows = ["".join(f"<td>{escape(str(cell))}</td>" for cell in row) for row in block.rows]
    body = "\n".join(f"<tr>{row}</tr>" for row in rows)
    return f'<div class="wide"><table>\n<tr>{head}</tr>\n{body}\n</table></div>'
