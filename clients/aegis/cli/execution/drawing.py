"""A picture as plain shapes, and the three things it may be written as.

SVG and HTML load and run nothing; both follow the reader's light or dark setting. PNG needs
Pillow, which comes with the extra `report`, so only who wants one imports it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from html import escape
from io import BytesIO
from typing import Literal

Kind = Literal["healed", "failed", "prevented", "open", "line", "strong", "soft", "title"]
Anchor = Literal["start", "middle", "end"]

_LIGHT = {
    "healed": "#2a7f62",
    "failed": "#c4501b",
    "prevented": "#3b73b9",
    "open": "#8d98a5",
    "line": "#d5dbe2",
    "strong": "#1a1f26",
    "soft": "#56606c",
    "title": "#1a1f26",
    "paper": "#ffffff",
}
_DARK = {
    **_LIGHT,
    "healed": "#5cc39b",
    "failed": "#f08a4b",
    "prevented": "#6fa5e6",
    "line": "#38414b",
    "strong": "#e6eaee",
    "soft": "#a5afba",
    "title": "#e6eaee",
    "paper": "#14181d",
}
# A screen with twice the pixels shows it sharp.
_PNG_SCALE = 2


@dataclass(frozen=True, slots=True)
class Box:
    """A filled rectangle; `title` is read out and shown where the pointer rests."""

    x: float
    y: float
    width: float
    height: float
    kind: Kind
    title: str = ""


@dataclass(frozen=True, slots=True)
class Label:
    """A line of text on its base line."""

    x: float
    y: float
    text: str
    kind: Kind = "soft"
    anchor: Anchor = "start"
    size: int = 12


@dataclass(frozen=True, slots=True)
class Line:
    """Points joined in their order."""

    points: tuple[tuple[float, float], ...]
    kind: Kind
    title: str = ""


@dataclass(frozen=True, slots=True)
class Drawing:
    """Shapes in a space of `width` by `height`, and what they show in words."""

    width: int
    height: int
    title: str
    description: str
    boxes: tuple[Box, ...]
    labels: tuple[Label, ...]
    lines: tuple[Line, ...] = ()


def svg(drawing: Drawing, *, alone: bool = True) -> str:
    """Returns it as SVG: a file of its own, or a part of a page."""
    return "\n".join(_svg(drawing, alone)) + "\n"


def _svg(drawing: Drawing, alone: bool) -> Iterator[str]:
    size = f'viewBox="0 0 {drawing.width} {drawing.height}"'
    if alone:
        size = (
            f'xmlns="http://www.w3.org/2000/svg" {size} width="{drawing.width}"'
            f' height="{drawing.height}"'
        )
    yield f'<svg {size} role="img" aria-labelledby="chart-title chart-text">'
    yield f'<title id="chart-title">{escape(drawing.title)}</title>'
    yield f'<desc id="chart-text">{escape(drawing.description)}</desc>'
    yield f"<style>{_style(_LIGHT)}@media (prefers-color-scheme: dark) {{{_style(_DARK)}}}</style>"
    yield f'<rect class="c-paper" width="{drawing.width}" height="{drawing.height}"/>'
    for box in drawing.boxes:
        shape = (
            f'<rect class="c-{box.kind}" x="{box.x:.1f}" y="{box.y:.1f}"'
            f' width="{box.width:.1f}" height="{box.height:.1f}"'
        )
        yield f"{shape}><title>{escape(box.title)}</title></rect>" if box.title else f"{shape}/>"
    for line in drawing.lines:
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in line.points)
        yield (
            f'<polyline class="l-{line.kind}" points="{points}"><title>{escape(line.title)}'
            "</title></polyline>"
        )
    for label in drawing.labels:
        weight = ' font-weight="600"' if label.kind in ("title", "strong") else ""
        yield (
            f'<text class="c-{label.kind}" x="{label.x:.1f}" y="{label.y:.1f}"'
            f' text-anchor="{label.anchor}"{weight}'
            f' style="font-size:{label.size}px">{escape(label.text)}</text>'
        )
    yield "</svg>"


def _style(colours: dict[str, str]) -> str:
    rules = [f".c-{kind}{{fill:{colour}}}" for kind, colour in colours.items()]
    rules += [f".l-{kind}{{stroke:{colour}}}" for kind, colour in colours.items()]
    rules.append("polyline{fill:none;stroke-width:2}")
    font = 'font-family:system-ui,"Segoe UI","Helvetica Neue",Arial,sans-serif'
    return "".join([*rules, f"text{{{font}}}"])


def png(drawing: Drawing) -> bytes:
    """Returns it as PNG in the light colours; raises ModuleNotFoundError without Pillow."""
    from PIL import Image, ImageDraw, ImageFont

    scale = _PNG_SCALE
    size = (drawing.width * scale, drawing.height * scale)
    image = Image.new("RGB", size, _LIGHT["paper"])
    paint = ImageDraw.Draw(image)
    for box in drawing.boxes:
        left, top = box.x * scale, box.y * scale
        right = max(left, (box.x + box.width) * scale - 1)
        bottom = max(top, (box.y + box.height) * scale - 1)
        paint.rectangle((left, top, right, bottom), fill=_LIGHT[box.kind])
    for line in drawing.lines:
        points = [(x * scale, y * scale) for x, y in line.points]
        paint.line(points, fill=_LIGHT[line.kind], width=2 * scale)
    anchors = {"start": "ls", "middle": "ms", "end": "rs"}
    for label in drawing.labels:
        paint.text(
            (label.x * scale, label.y * scale),
            label.text,
            fill=_LIGHT[label.kind],
            font=ImageFont.load_default(label.size * scale),
            anchor=anchors[label.anchor],
        )
    target = BytesIO()
    image.save(target, "PNG", optimize=True)
    return target.getvalue()


def page(
    drawing: Drawing, css: str, tables: Iterable[tuple[str, list[str], list[list[str]]]]
) -> str:
    """Returns one HTML page with the picture and its numbers: title, headings and rows each."""
    return "\n".join(_page(drawing, css, tables)) + "\n"


def _page(
    drawing: Drawing, css: str, tables: Iterable[tuple[str, list[str], list[list[str]]]]
) -> Iterator[str]:
    policy = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
    yield '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">'
    yield f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
    yield '<meta name="color-scheme" content="light dark">'
    yield f"<title>{escape(drawing.title)}</title>\n<style>\n{css}</style>\n</head>\n<body>"
    yield f"<header><h1>{escape(drawing.title)}</h1><p>{escape(drawing.description)}</p></header>"
    yield f"<main><figure>{svg(drawing, alone=False)}</figure>"
    for title, headings, rows in tables:
        yield f"<h2>{escape(title)}</h2><div class=scroll tabindex=0><table><thead><tr>"
        yield "".join(f"<th scope=col>{escape(each)}</th>" for each in headings)
        yield "</tr></thead><tbody>"
        for row in rows:
            yield "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>"
        yield "</tbody></table></div>"
    yield "</main>\n</body>\n</html>"
