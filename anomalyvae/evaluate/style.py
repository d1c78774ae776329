"""The style of every picture: its colours, and a figure in it. matplotlib is imported when one is drawn."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Blue and vermilion are Okabe and Ito's, which colour-blind readers tell apart; the pages have the same.
INK, MUTED, RULE, SHADE = "#1f2a35", "#66727f", "#d5dbe1", "#f0f2f5"
STRANGE, MODEL = "#d55e00", "#0072b2"
VERDICTS = {"new_normal": "#009e73", "fault": STRANGE, "noise": "#8a949e", "unsure": "#8f4f9f"}

STYLE: Any = {
    "font.family": "DejaVu Sans",  # comes with matplotlib; the reader's own takes its place
    "font.size": 9,
    "text.parse_math": False,  # a dollar sign in a signal's name is a dollar sign
    "text.color": INK,
    "axes.edgecolor": RULE,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "xtick.color": RULE,
    "ytick.color": RULE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "svg.fonttype": "none",
    "svg.hashsalt": "anomalyvae",  # the same run gives the same page
}


def drawn(draw: Callable[["Figure"], None], width_in: float, height_in: float) -> "Figure":
    """A figure in the style of the project, which a notebook shows and ``savefig`` writes.

    Parameters
    ----------
    draw : callable
        Draws into an empty figure.
    width_in, height_in : float
        Inches.

    Raises
    ------
    ImportError
        Without matplotlib.
    """
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            f"Got no {error.name}, expected matplotlib to draw with. Run: pip install 'anomalyvae[report]'."
        ) from error
    with rc_context(STYLE):
        figure = Figure(figsize=(width_in, height_in), dpi=120)
        draw(figure)
        figure.draw_without_rendering()  # ticks are made at the first drawing, which is to be in this style
    return figure
