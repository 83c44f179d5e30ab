"""The parts of matplotlib that figures use, imported without the working folder's `matplotlibrc`; import it here."""

from tokenbounds.surroundings import ignoring

with ignoring("matplotlibrc"):
    from matplotlib import rc_context, rcParamsDefault
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

__all__ = [
    "Artist",
    "Axes",
    "Figure",
    "FuncFormatter",
    "Line2D",
    "LogLocator",
    "MaxNLocator",
    "NullLocator",
    "Patch",
    "rcParamsDefault",
    "rc_context",
]
