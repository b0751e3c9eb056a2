"""What all figures share: a style, colours that a page can replace, and SVG and PNG files."""

import contextlib
import dataclasses
import html
import importlib
import io
import re
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, Literal

from jaxalign.core.errors import UserError
from jaxalign.report.labels import file_stem

# Each is a colour that nothing else has, so that a page can put its own, light or dark, in its place.
INK, MUTED, PAPER, GRID, EMPTY = "#1b1f24", "#59616b", "#fefefe", "#d4d9df", "#e8ebef"
# Okabe and Ito's colours (without their yellow) and two more, told apart with any kind of colour vision.
SERIES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b8860b", "#56b4e9", "#6a51a3", "#7f7f7f")
DASHES = ("-", "--", "-.", ":")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
DOTS_PER_INCH = 120
PIXELS_PER_INCH = 96  # of CSS
_EXCHANGED = {INK: "ink", MUTED: "muted", PAPER: "paper", GRID: "grid", EMPTY: "empty"} | {
    colour: f"series-{place + 1}" for place, colour in enumerate(SERIES)
}
_COLOUR = re.compile("|".join(_EXCHANGED))
_STYLE: dict[Any, Any] = {
    "text.parse_math": False,  # a name with $ is a name
    "axes.formatter.use_mathtext": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "jaxalign",
    "font.family": ["DejaVu Sans"],
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "axes.facecolor": PAPER,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.facecolor": PAPER,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "legend.labelcolor": INK,
}


@dataclasses.dataclass(frozen=True)
class Plot:
    """A drawn figure.

    Attributes:
      name: of its files, without suffix.
      title: what it is of, in a few words.
      caption: what to see in it, or how to read it.
      alt: what it shows, in numbers, for who cannot see it.
      svg: the file.
      png: the file.
      width: in CSS pixels at its natural size.
    """

    name: str
    title: str
    caption: str
    alt: str
    svg: str
    png: bytes
    width: float

    @property
    def inline(self) -> str:
        """The SVG as part of a page: ids of its own, the page's colours, and the alternative text."""
        text = self.svg[self.svg.index("<svg") :]
        text = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", text, flags=re.DOTALL)
        used = set(re.findall(r'(?:url\(#|href="#)([^)"]+)', text))
        text = re.sub(r"<[^>]*>", lambda tag: self._exchanged(tag[0], used), text)  # never what a name says
        end = text.index(">")
        root = re.sub(r' (width|height)="[^"]*"', "", text[:end])
        return f'{root} role="img" aria-label="{html.escape(self.alt)}"{text[end:]}'

    def _exchanged(self, tag: str, used: set[str]) -> str:
        tag = re.sub(r' id="([^"]*)"', lambda i: f' id="{self.name}-{i[1]}"' if i[1] in used else "", tag)
        tag = tag.replace("url(#", f"url(#{self.name}-").replace('href="#', f'href="#{self.name}-')
        return _COLOUR.sub(lambda found: f"var(--{_EXCHANGED[found[0]]}, {found[0]})", tag)


def require_libraries(who: str, names: Sequence[str], otherwise: str = "") -> None:
    """Raises ``UserError`` if a module is not installed; ``otherwise`` says what helps besides installing it."""
    for name in names:
        try:
            importlib.import_module(name)
        except ImportError as error:
            missing = f"{who} {error.name}, which is not installed; run `pip install {error.name}`"
            raise UserError(f"{missing}{otherwise}.") from error


@contextlib.contextmanager
def styled() -> Iterator[None]:
    """Our style, without a change of the caller's; around everything that makes or saves a figure."""
    import matplotlib

    with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from")  # a name in a script the font lacks
        yield


def new_figure(width: float, height: float, layout: Literal["constrained"] | None = "constrained") -> Any:
    """An empty figure of so many inches, outside pyplot's state."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=DOTS_PER_INCH, layout=layout)
    FigureCanvasAgg(figure)
    return figure


def text_width(text: str, size: float) -> float:
    """Of a line of text in the font of figures, in inches; ``size`` in points. Call it inside ``styled``."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextToPath

    width, _, _ = TextToPath().get_text_width_height_descent(text, FontProperties(size=size), ismath=False)
    return width / 72


def picture(figure: Any, name: str, *, title: str, caption: str, alt: str) -> Plot:
    """Saves a matplotlib figure, made inside ``styled``, in both formats; the name is made safe for files and ids."""
    svg, png = io.StringIO(), io.BytesIO()
    no_metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(svg, format="svg", metadata=no_metadata)
    figure.set_layout_engine("none")  # it is laid out
    figure.savefig(png, format="png", dpi=DOTS_PER_INCH, metadata={"Software": None})
    width = PIXELS_PER_INCH * figure.get_figwidth()
    return Plot(file_stem(name), title, caption, alt, svg.getvalue(), png.getvalue(), width)
