"""Small SVG pictures that are readable in light and in dark."""

from __future__ import annotations

from html import escape

STYLE = """
  text { font-family: system-ui, "Segoe UI", "DejaVu Sans", sans-serif; fill: #1f2937 }
  .muted { fill: #6b7280 }
  .strong { font-weight: 600 }
  .on-color { fill: #ffffff }
  .page { fill: #ffffff }
  .line { stroke: #9ca3af; fill: none }
  .head { fill: #9ca3af }
  .base { fill: #0f766e }
  .reused { fill: #ccfbf1; stroke: #0f766e; stroke-dasharray: 3 2 }
  .adapter { fill: #2563eb }
  .sibling { fill: #7c3aed }
  .lora { fill: #c2410c }
  .lora-light { fill: #fdba74 }
  @media (prefers-color-scheme: dark) {
    text { fill: #e5e7eb }
    .muted { fill: #9ca3af }
    .on-color { fill: #0b1220 }
    .page { fill: #0d1117 }
    .line { stroke: #6b7280 }
    .head { fill: #6b7280 }
    .base { fill: #2dd4bf }
    .reused { fill: #123b38; stroke: #2dd4bf }
    .adapter { fill: #60a5fa }
    .sibling { fill: #c4b5fd }
    .lora { fill: #fb923c }
    .lora-light { fill: #9a5a25 }
  }
"""


def picture(width: int, height: int, title: str, parts: list[str]) -> str:
    """Return a whole picture; ``title`` is what screen readers say."""
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    page = f'<rect class="page" width="{width}" height="{height}" rx="6"/>'
    return "\n".join(
        [f'{head} role="img">', f"<title>{escape(title)}</title>", f"<style>{STYLE}</style>", page, *parts, "</svg>\n"]
    )


def text(x: float, y: float, content: str, *, size: int = 13, anchor: str = "start", kind: str = "") -> str:
    """Return a line of text whose baseline starts, ends or is centred at (x, y)."""
    return (
        f'<text x="{x:g}" y="{y:g}" font-size="{size}" text-anchor="{anchor}" class="{kind}">{escape(content)}</text>'
    )


def box(x: float, y: float, width: float, height: float, kind: str) -> str:
    """Return a filled rectangle."""
    return f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="2" class="{kind}"/>'


def arrow_head() -> str:
    """Return the definition of the marker ``head``, for the ends of lines."""
    sizes = 'markerWidth="8" markerHeight="8" refX="8" refY="4" orient="auto"'
    return f'<defs><marker id="head" {sizes}><path d="M0 0 L8 4 L0 8 z" class="head"/></marker></defs>'
