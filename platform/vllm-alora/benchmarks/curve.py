"""The TTFT curve as a picture (matplotlib)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from figures import Results
from ttft import ALORA_WARM, BASE_COLD, LORA_FIRST

STYLES: dict[str, dict[str, Any]] = {
    LORA_FIRST: {"color": "#c2410c", "marker": "s", "linestyle": "-"},
    BASE_COLD: {"color": "#475569", "marker": "o", "linestyle": "--"},
    ALORA_WARM: {"color": "#0369a1", "marker": "D", "linestyle": "-"},
}


class PlotError(Exception):
    """Raised when the curve cannot be drawn; says what is missing."""


def check_plot(path: Path) -> None:
    """Raise :class:`PlotError` now rather than after the measurement."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as exc:
        raise PlotError("--plot needs matplotlib: `make install-dev`, or pip install matplotlib") from exc
    if path.suffix not in (".svg", ".png"):
        raise PlotError(f"--plot {path} must end in .svg or .png")


def draw_curve(results: Results, path: Path, title: str) -> None:
    """Draw TTFT by prompt length on logarithmic axes, with the least and the greatest sample as bars."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    # Equal results give equal files.
    matplotlib.rcParams.update({"svg.hashsalt": "vllm-alora", "font.size": 10, "font.family": "DejaVu Sans"})
    figure, axes = pyplot.subplots(figsize=(7.2, 4.4), layout="constrained")
    figure.patch.set_facecolor("white")
    for name, style in STYLES.items():
        line = results.curve[name]
        lengths, middles = list(line), [spread.value for spread in line.values()]
        below = [spread.value - spread.low for spread in line.values()]
        above = [spread.high - spread.value for spread in line.values()]
        axes.errorbar(
            lengths, middles, yerr=[below, above], label=name, linewidth=1.8, markersize=5, capsize=2.5, **style
        )
    _annotate(axes, results)
    _set_axes(axes, list(results.curve[BASE_COLD]), title)
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata = {"Date": None} if path.suffix == ".svg" else None
    figure.savefig(path, metadata=metadata, dpi=110)
    pyplot.close(figure)


def _annotate(axes: Any, results: Results) -> None:
    """Write how many times faster aLoRA is at the longest prompt."""
    at = max(results.curve[ALORA_WARM])
    low, high = results.curve[ALORA_WARM][at].value, results.curve[LORA_FIRST][at].value
    axes.annotate(
        "", xy=(at, low * 1.12), xytext=(at, high / 1.12), arrowprops={"arrowstyle": "<->", "color": "#64748b"}
    )
    axes.text(at / 1.06, (low * high) ** 0.5, f"{high / low:.0f} x", ha="right", va="center", color="#334155")


def _set_axes(axes: Any, lengths: list[int], title: str) -> None:
    from matplotlib.ticker import FuncFormatter, NullLocator

    axes.set(xscale="log", yscale="log", xlabel="tokens of the prefix", ylabel="time to first token (ms)")
    axes.set_xticks(lengths, [f"{length:,}" for length in lengths])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.grid(visible=True, which="major", color="#e2e8f0", linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.set_title(title, loc="left", fontsize=9, color="#334155")
    axes.legend(frameon=False, loc="upper left")
