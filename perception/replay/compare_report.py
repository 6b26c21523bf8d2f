"""A comparison as a report: a self-contained .html page, or one .png picture.

The page has the tables that the terminal shows, as text, and plots as SVG inside it (``compare_plots.py``).
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Callable
from itertools import zip_longest
from pathlib import Path

from perception.errors import PerceptionError, missing_extra
from perception.files import check_writable, write_file
from perception.replay.compare import Comparison, FrameDifference
from perception.replay.compare_plots import COLOURS, STYLE, draw_frame, draw_histogram, draw_timeline
from perception.replay.compare_tables import Table, frames_line, heading, tables
from perception.replay.matching import SHIFTS, match
from perception.replay.result import ResultFile
from perception.text import aligned

_WORST = 5
_CSS = """
body { font: 15px/1.45 system-ui, sans-serif; color: #1c2128; max-width: 1180px; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.5rem } h2 { font-size: 1.15rem; margin-top: 2rem }
img { max-width: 100%; display: block } pre, td { font-variant-numeric: tabular-nums }
pre { background: #f4f6f8; padding: .8rem 1rem; overflow-x: auto; font-size: 13px }
.conclusion { padding: .7rem 1rem; border-left: 6px solid; font-weight: 600 }
.conclusion ul { margin: .3rem 0 0; font-weight: 400 }
.within { border-color: #1a9850; background: #eaf6ee } .beyond { border-color: #d73027; background: #fcecea }
.tables { display: flex; flex-wrap: wrap; gap: 1.5rem 2.5rem; margin: 1.5rem 0 }
table { border-collapse: collapse; font-size: 14px; align-self: flex-start }
th, td { padding: .2rem .6rem; text-align: right; border-bottom: 1px solid #e3e7ec }
th { border-bottom-color: #98a2b0; font-weight: 600 }
th:first-child, td:first-child { text-align: left; padding-left: 0 }
.frames { display: grid; grid-template-columns: repeat(auto-fit, minmax(480px, 1fr)); gap: 1rem }
figure { margin: 0 } figcaption { font-size: 13px; color: #57606c }
"""


def check_report(path: Path) -> None:
    """Check the path of a report before the comparison is made.

    Raises:
        PerceptionError: neither .html nor .png, or matplotlib is not installed.
        ResultsError: it cannot be written.
    """
    if path.suffix not in (".html", ".png"):
        raise PerceptionError(f"--report {path}: a name that ends in .html or .png was expected")
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise PerceptionError(missing_extra("viz", "a report needs matplotlib")) from None
    check_writable(path)


def write_report(comparison: Comparison, path: str | Path) -> None:
    """A page or a picture, by the suffix of ``path``. The frames that differ most are read once more.

    Raises:
        See :func:`check_report`, and ReplayResultError.
    """
    path = Path(path)
    check_report(path)
    import matplotlib

    matplotlib.use("Agg")
    with matplotlib.rc_context(STYLE):  # type: ignore[arg-type]  # wants literal keys
        data = _page(comparison).encode() if path.suffix == ".html" else _picture(comparison)
    write_file(path, data)


def _title(comparison: Comparison) -> str:
    return f"{comparison.b.name} compared with {comparison.a.name}"


def _page(comparison: Comparison) -> str:
    exceeded = "".join(f"<li>{html.escape(line)}</li>" for line in comparison.exceeded)
    conclusion = f"Beyond tolerance<ul>{exceeded}</ul>" if exceeded else "Within tolerance"
    worst = "".join(_frame_figure(comparison, frame) for frame in comparison.worst(_WORST))
    title = html.escape(_title(comparison))
    return f"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>{_CSS}</style>
<h1>{title}</h1>
<div class="conclusion {"beyond" if exceeded else "within"}">{conclusion}</div>
<pre>{html.escape(heading(comparison))}

{html.escape(frames_line(comparison))}</pre>
<div class="tables">{"".join(map(_html_table, tables(comparison)))}</div>
{_image(lambda figure: draw_timeline(figure.subplots(), comparison), (11.5, 2.6), "boxes gained and lost by frame")}
{_image(lambda figure: _histograms(figure, comparison), (11.5, 2.3), "how far pairs are apart")}
<h2>The frames that differ most</h2>
<p>Bird's-eye view, forward is up: <b style="color:{COLOURS["gained"]}">gained</b>,
<b style="color:{COLOURS["lost"]}">lost</b> (dashed), <b style="color:{COLOURS["changed"]}">another class</b> (dashed in
A), <b style="color:{COLOURS["both"]}">in both</b> (<b style="color:{COLOURS["before"]}">paler</b> where A has it).</p>
<div class="frames">{worst or "<p>No box was gained, lost or changed.</p>"}</div>
</html>
"""


def _html_table(table: Table) -> str:
    header, *rows = table
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in header)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"


def _frame_figure(comparison: Comparison, frame: FrameDifference) -> str:
    picture = _image(lambda figure: _draw(figure.subplots(), comparison, frame), (5.6, 5.6), "bird's-eye view")
    text = html.escape(f"token {frame.token}, {frame.key.timestamp_ns} ns, {frame.a} boxes in A, {frame.b} in B")
    return f"<figure>{picture}<figcaption>{text}</figcaption></figure>"


def _image(draw: Callable, size_inches: tuple[float, float], about: str) -> str:
    """What ``draw`` draws, as an image embedded in the page."""
    from matplotlib.figure import Figure

    figure, file = Figure(figsize=size_inches, layout="constrained"), io.BytesIO()
    draw(figure)
    figure.savefig(file, format="svg", metadata={"Date": None})
    return f'<img alt="{about}" src="data:image/svg+xml;base64,{base64.b64encode(file.getvalue()).decode()}">'


def _picture(comparison: Comparison) -> bytes:
    """Conclusion and classes, timeline, histograms, the worst frames, from top to bottom."""
    from matplotlib.figure import Figure

    figure, file = Figure(figsize=(17, 13), layout="constrained"), io.BytesIO()
    top, timeline, histograms, frames = figure.subfigures(4, 1, squeeze=False, height_ratios=(2.9, 2.3, 2.2, 3.6))[:, 0]
    conclusion = "\n".join(["beyond tolerance:", *comparison.exceeded]) if comparison.exceeded else "within tolerance"
    colour = COLOURS["lost"] if comparison.exceeded else COLOURS["gained"]
    figure.suptitle(_title(comparison), x=0.01, ha="left", fontsize=14)
    left = "\n\n".join([frames_line(comparison), *map(aligned, tables(comparison)[:1])])
    right = "\n\n".join(aligned(table) for table in tables(comparison)[1:] if "frames" not in table[0][0])
    for x, text, ink in ((0.01, left, "black"), (0.39, right, "black"), (0.63, conclusion, colour)):
        top.text(x, 0.97, text, va="top", family="monospace", fontsize=8, color=ink)
    draw_timeline(timeline.subplots(), comparison)
    _histograms(histograms, comparison)
    about = (
        "The frames that differ most, from above, forward is up; grey: in both, paler where A has it; dashed: only A"
    )
    frames.suptitle(about, x=0.01, ha="left", fontsize=9)
    for axes, frame in zip_longest(frames.subplots(1, _WORST), comparison.worst(_WORST)):
        if frame is None:
            axes.axis("off")
        else:
            _draw(axes, comparison, frame)
    figure.savefig(file, format="png", dpi=110, metadata={"Software": None})
    return file.getvalue()


def _histograms(figure, comparison: Comparison) -> None:
    for axes, name in zip(figure.subplots(1, len(SHIFTS)), SHIFTS):
        draw_histogram(axes, comparison, name)


def _draw(axes, comparison: Comparison, frame: FrameDifference) -> None:
    folders = comparison.a, comparison.b
    a, b = (ResultFile(folder).read(place).detections for folder, place in zip(folders, frame.places))
    draw_frame(
        axes, frame, a, b, match(a, b, comparison.score_threshold, comparison.match_distance_m), comparison.task.classes
    )
